"""Serving: a trained run answers, from its index, as a SavedModel, and as a model of MLflow."""
