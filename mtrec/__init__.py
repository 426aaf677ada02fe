"""mtrec: distributed multi-task training for recommenders, on TensorFlow and Keras 3.

Importing the package loads none of TensorFlow, Ray, MLflow or ScaNN; its modules do, when needed.
"""

__version__ = "0.1.0"
