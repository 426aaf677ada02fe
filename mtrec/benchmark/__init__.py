"""mtrec beside what people would run instead: ratios that are measured in one run."""
