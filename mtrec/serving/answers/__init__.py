"""The stages of an answer: candidates, filter, score, fuse, arrange."""
