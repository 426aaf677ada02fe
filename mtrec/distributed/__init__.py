"""Several replicas: the strategy, what they tell each other, and the tables they keep or divide.

A room here knows TensorFlow's strategies and no recommender."""
