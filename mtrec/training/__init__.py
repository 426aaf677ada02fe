"""Training: from batches to a selected and measured model.

A room here moves weights, chooses how, keeps what a job goes on from, or judges the result."""
