"""Several replicas: the strategy, what replicas tell each other, and embedding tables that they keep or divide.

A room here knows TensorFlow's strategies and no recommender."""
