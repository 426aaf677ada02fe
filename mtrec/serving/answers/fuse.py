"""How what heads say of candidates becomes one score.

Shapes: `Q` queries, `N` candidates of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from mtrec.errors import UserError, require
from mtrec.heads import metrics
from mtrec.serving.answers.expression import Expression

FUNCTIONS = {
    "exp": tf.exp,
    "log": tf.math.log,
    "sqrt": tf.sqrt,
    "sigmoid": tf.sigmoid,
    "maximum": tf.maximum,
    "minimum": tf.minimum,
}
RANKING = tuple(metrics.ranking(np.zeros(1), np.zeros(1, int), 1))
# Weights that are tried for a head, relative to those of others.
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Fusion(ABC):
    """Makes one score of several."""

    @property
    @abstractmethod
    def names(self) -> set[str]:
        """What it reads: outputs of heads by their names, and columns of numbers of the items."""

    @abstractmethod
    def __call__(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> tf.Tensor:
        """The score of each candidate, `[Q, N]`.

        Args:
            outputs: What it reads, by name, `[Q, N]` each.
            valid: Whether there is a candidate in each place, `[Q, N]`.
        """


@dataclass(frozen=True, kw_only=True)
class Formula(Fusion):
    """A formula over the heads' outputs and the items' columns, such as `purchase * price`.

    Args:
        formula: See `mtrec.serving.answers.expression`; it may call exp, log, sqrt, sigmoid,
            maximum and minimum.
    """

    formula: str

    def __post_init__(self) -> None:
        if not self._expression.names:
            raise UserError(
                f"`formula` must name a head; got {self.formula!r}, which names none. Name one."
            )

    @property
    def _expression(self) -> Expression:
        return Expression(self.formula, argument="formula", functions=FUNCTIONS)

    @property
    def names(self) -> set[str]:
        """What the formula names."""
        return self._expression.names

    def __call__(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> tf.Tensor:
        """The formula's value."""
        value: tf.Tensor = self._expression.value(outputs)
        return value


@dataclass(frozen=True, kw_only=True)
class RankSum(Fusion):
    """A weighted sum of the places that heads give candidates (Borda's count).

    Of N candidates, the first of a head gets that head's weight, the last 1/N of it.

    Args:
        weights: The weight of each head; null for one that is chosen on the validation part.
        tuned_by: The metric of answers that the choice is after.
    """

    weights: Mapping[str, float | None]
    tuned_by: str

    def __post_init__(self) -> None:
        if self.tuned_by not in RANKING:
            raise UserError(
                f"`tuned_by` must be a metric of answers ({', '.join(RANKING)}); "
                f"got {self.tuned_by}. Set it to ndcg_at_10."
            )
        for name, weight in self.weights.items():
            if weight is not None:
                require(f"`weights.{name}`", weight, least=0)
        if not any(weight for weight in self.weights.values()):
            raise UserError(
                "`weights` must name a head with a weight above 0, which others are chosen beside; "
                f"got {dict(self.weights)}. Set one to 1."
            )

    @property
    def names(self) -> set[str]:
        """The heads."""
        return set(self.weights)

    @property
    def untuned(self) -> list[str]:
        """The heads whose weights are to be chosen."""
        return [name for name, weight in self.weights.items() if weight is None]

    def weighted(self, weights: Mapping[str, float]) -> "RankSum":
        """The same with some weights in place of those that it had."""
        return replace(self, weights={**self.weights, **weights})

    def __call__(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> tf.Tensor:
        """The weighted sum; a weight that is not chosen yet is 0."""
        shares = self.shares(outputs, valid)
        return sum(
            ((weight or 0.0) * shares[name] for name, weight in self.weights.items()),
            tf.zeros_like(valid, tf.float32),
        )

    def shares(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> dict[str, tf.Tensor]:
        """What each head gives a candidate for a weight of 1, from 1 for the first, `[Q, N]`."""
        count = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1, keepdims=True)
        shares = {}
        for name in self.weights:
            best_first = tf.argsort(
                tf.where(valid, outputs[name], -np.inf), direction="DESCENDING", stable=True
            )
            place = tf.cast(tf.argsort(best_first, stable=True), tf.float32)
            shares[name] = 1 - place / tf.maximum(count, 1.0)
        return shares
