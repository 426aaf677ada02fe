"""Jobs: one job, stage by stage, from its config to a finished run directory; here or on Ray."""
