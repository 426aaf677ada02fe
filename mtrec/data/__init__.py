"""Data: where interactions come from, how they are split and how they are fed to replicas."""
