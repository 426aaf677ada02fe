"""Balance: how the tasks' losses are weighted into one objective.

Losses are means over the global batch, so that a weight means the same whatever the batch size and
the number of replicas.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import keras
import tensorflow as tf

from mtrec.tables import unnumbered


class Balancer(keras.layers.Layer, ABC):
    """Turns the tasks' losses into the objective."""

    def __init__(self) -> None:
        super().__init__(name=unnumbered(self))

    @abstractmethod
    def adapt(self, weights: Mapping[str, float]) -> None:
        """Takes the configured weight of each task and makes what state there is."""

    @abstractmethod
    def combine(self, losses: Mapping[str, tf.Tensor], num_replicas: int) -> tf.Tensor:
        """The objective: a scalar that, summed over replicas, is to be minimised.

        Args:
            losses: This replica's share of each task's mean loss over the global batch.
            num_replicas: Number of shares.
        """

    @abstractmethod
    def task_weights(self) -> dict[str, tf.Tensor]:
        """The weight of each task at this moment, for reports."""


class Fixed(Balancer):
    """`sum_t w_t L_t` with the configured weights."""

    def adapt(self, weights: Mapping[str, float]) -> None:
        """Keeps the weights."""
        self._weights = dict(weights)

    def combine(self, losses: Mapping[str, tf.Tensor], num_replicas: int) -> tf.Tensor:
        """See the class."""
        return tf.add_n([self._weights[name] * loss for name, loss in losses.items()])

    def task_weights(self) -> dict[str, tf.Tensor]:
        """The configured weights."""
        return {name: tf.constant(weight) for name, weight in self._weights.items()}


class Uncertainty(Balancer):
    """`sum_t exp(-s_t) L_t + s_t` with a learnt log variance s_t of each task.

    Kendall, Gal, Cipolla 2018 (arXiv:1705.07115), with the log variance learnt as they advise; the
    factor of one half that they give to regression is absorbed in s_t. The configured weights are
    where it starts: `s_t = -log w_t`.
    """

    def adapt(self, weights: Mapping[str, float]) -> None:
        """Makes one log variance a task."""
        self._log_variances = {}
        for name, weight in weights.items():
            variable = self.add_weight(shape=(), initializer="zeros", name=f"log_variance_{name}")
            variable.assign(-tf.math.log(float(weight)))
            self._log_variances[name] = variable

    def combine(self, losses: Mapping[str, tf.Tensor], num_replicas: int) -> tf.Tensor:
        """See the class; each replica adds its share of s_t."""
        return tf.add_n(
            [
                tf.exp(-self._log_variances[name].value) * loss
                + self._log_variances[name].value / num_replicas
                for name, loss in losses.items()
            ]
        )

    def task_weights(self) -> dict[str, tf.Tensor]:
        """`exp(-s_t)`."""
        return {name: tf.exp(-value.value) for name, value in self._log_variances.items()}
