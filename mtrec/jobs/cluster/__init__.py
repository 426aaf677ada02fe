"""Clusters: workers of a Ray cluster train one job, and this process follows them.

The only door to Ray is here. What Ray's own processes import stays free of TensorFlow."""
