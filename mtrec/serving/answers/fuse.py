"""How what heads say of candidates becomes one score.

Shapes: `Q` queries, `N` candidates of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.errors import UserError, require
from mtrec.heads import metrics
from mtrec.serving.answers.expression import Expression

# Each takes as many arguments as it says, and no options.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "exp": lambda x: tf.exp(x),
    "log": lambda x: tf.math.log(x),
    "sqrt": lambda x: tf.sqrt(x),
    "sigmoid": lambda x: tf.sigmoid(x),
    "maximum": lambda x, y: tf.maximum(x, y),
    "minimum": lambda x, y: tf.minimum(x, y),
}
# The same for a first try, when TensorFlow must not have begun.
_TRIED: Mapping[str, Callable[..., Any]] = {
    **{name: lambda x: np.abs(x) for name in ("exp", "log", "sqrt", "sigmoid")},
    **{name: lambda x, y: np.maximum(x, y) for name in ("maximum", "minimum")},
}
RANKING = tuple(metrics.ranking(np.zeros(1), np.zeros(1, int), 1))
# Weights that are tried for a head, relative to those of others.
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Fusion(ABC):
    """Makes one score of several.

    Attributes:
        weights: Its weights by name; null for one that is chosen on the validation part.
        tuned_by: The metric of answers that the choice is after.
        tried: What such a weight may be.
    """

    weights: Mapping[str, float | None]
    tuned_by: str
    tried = WEIGHTS

    @property
    @abstractmethod
    def names(self) -> set[str]:
        """What it reads, by name: outputs of heads, sources for all, columns of the items."""

    def prepared(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> dict[str, tf.Tensor]:
        """What it makes of what it reads, whatever its weights are, `[Q, N]` each.

        Args:
            outputs: What it reads, by name, `[Q, N]` each.
            valid: Whether there is a candidate in each place, `[Q, N]`.
        """
        return {name: outputs[name] for name in self.names}

    @abstractmethod
    def combined(self, prepared: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
        """The score of each candidate, `[Q, N]`, of what is prepared, with these weights."""

    def __call__(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> tf.Tensor:
        """The score of each candidate, `[Q, N]`; see `prepared`. An unchosen weight is 0."""
        weights = {name: weight or 0.0 for name, weight in self.weights.items()}
        return self.combined(self.prepared(outputs, valid), weights)

    @property
    def untuned(self) -> list[str]:
        """The names of weights that are to be chosen."""
        return [name for name, weight in self.weights.items() if weight is None]

    def _check(self) -> None:
        if self.tuned_by not in RANKING:
            raise UserError(
                f"`tuned_by` must be a metric of answers ({', '.join(RANKING)}); "
                f"got {self.tuned_by}. Set it to ndcg_at_10."
            )
        for name, weight in self.weights.items():
            if weight is not None:
                require(f"`weights.{name}`", weight, least=0)


@dataclass(frozen=True, kw_only=True)
class Formula(Fusion):
    """A formula over heads' outputs, sources and items' columns, such as `purchase * price`.

    Args:
        formula: See `mtrec.serving.answers.expression`; it may call exp, log, sqrt, sigmoid,
            maximum and minimum.
        weights: Numbers that it names, by name; null for one that is chosen on the validation part.
        tuned_by: The metric of answers that the choice is after.
    """

    formula: str
    weights: Mapping[str, float | None] = field(default_factory=dict)
    tuned_by: str = "ndcg_at_10"

    def __post_init__(self) -> None:
        self._check()
        if not self.names:
            raise UserError(
                f"`formula` must name a head; got {self.formula!r}, which names none. Name one."
            )
        tried = Expression(self.formula, argument="formula", functions=_TRIED)
        tried.try_out(dict.fromkeys(tried.names, np.ones(1)))
        if unread := sorted(set(self.weights) - self._expression.names):
            raise UserError(
                f"`weights` must be named by the `formula`; {unread[0]} is not. Leave it out."
            )

    @property
    def _expression(self) -> Expression:
        return Expression(self.formula, argument="formula", functions=FUNCTIONS)

    @property
    def names(self) -> set[str]:
        """What the formula names, but for its weights."""
        return self._expression.names - set(self.weights)

    def combined(self, prepared: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
        """The formula's value."""
        return self._expression.value({**prepared, **weights})


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
        self._check()
        if not any(weight for weight in self.weights.values()):
            raise UserError(
                "`weights` must name a head with a weight above 0, which others are chosen beside; "
                f"got {dict(self.weights)}. Set one to 1."
            )

    @property
    def names(self) -> set[str]:
        """The heads."""
        return set(self.weights)

    def prepared(self, outputs: Mapping[str, tf.Tensor], valid: tf.Tensor) -> dict[str, tf.Tensor]:
        """What each head gives a candidate for a weight of 1, from 1 for the first, `[Q, N]`."""
        count = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1, keepdims=True)
        shares = {}
        for name in self.weights:
            told = outputs[name]
            told = tf.where(tf.math.is_nan(told), told.dtype.min, told)  # last of the candidates
            best_first = tf.argsort(
                tf.where(valid, told, -np.inf), direction="DESCENDING", stable=True
            )
            place = tf.cast(tf.argsort(best_first, stable=True), tf.float32)
            shares[name] = 1 - place / tf.maximum(count, 1.0)
        return shares

    def combined(self, prepared: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
        """The weighted sum."""
        return sum(weight * prepared[name] for name, weight in weights.items())
