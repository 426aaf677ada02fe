"""Heads: what the towers are trained to predict, and what judges it."""
