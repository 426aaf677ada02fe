"""Heads: what the towers' outputs are trained to predict."""
