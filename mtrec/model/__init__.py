"""The model: features become representations of queries and candidates, which heads share.

A room here maps rows to vectors; it knows nothing of batches, of steps, or of where they run."""
