"""Tracking: what is kept of a run, in its directory and in MLflow.

The only door to MLflow is here; nothing here knows what is trained."""
