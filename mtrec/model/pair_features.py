"""Features of a pair of user and item: what is known of both together when one asks."""

from collections.abc import Mapping
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import PairInputs


class PairFeature(Protocol):
    """A feature of pairs."""

    # Whether it reads what the user did with the item before, and when the pair is asked about.
    reads_before: bool
    reads_time: bool

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, named_by: str) -> None:
        """Learns scales and the like from the training rows `fit`.

        Args:
            dataset: The data.
            fit: Row numbers of the interactions to train on.
            named_by: Where the config names the feature.

        Raises:
            UserError: If the data lacks what it reads.
        """

    def create(self, *, name: str, dim: int, stddev: float, seed: int) -> None:
        """Makes the weights; see `mtrec.model.features.Feature`."""

    def __call__(self, pairs: PairInputs) -> tf.Tensor:
        """Vectors of pairs, `[N, D]`."""


class PairFeatures(keras.layers.Layer):
    """The sum of the features of pairs that a head reads.

    Args:
        features: The features by name.
    """

    # Standard deviation of weights at the start.
    STDDEV = 0.05

    def __init__(self, features: Mapping[str, PairFeature]) -> None:
        super().__init__()
        self.features = dict(features)
        self.reads_before = any(feature.reads_before for feature in features.values())
        self.reads_time = any(feature.reads_time for feature in features.values())

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, head: str, dim: int, seed: int) -> None:
        """Fits the features to the training rows `fit`, and makes weights for vectors `[N, dim]`.

        Raises:
            UserError: If the data lacks what a feature reads.
        """
        for name, feature in self.features.items():
            feature.adapt(dataset, fit, named_by=f"heads.{head}.features.{name}")
            where = f"{head}/features/{name}"
            feature.create(name=where, dim=dim, stddev=self.STDDEV, seed=seed)
        self.built = True

    def call(self, pairs: PairInputs) -> tf.Tensor:
        """The sum of the features' vectors, `[N, dim]`."""
        return tf.add_n([feature(pairs) for feature in self.features.values()])
