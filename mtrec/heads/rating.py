"""Rating regression: how well a user will like an item they take."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec import metrics, slices
from mtrec.data.dataset import Dataset
from mtrec.heads.head import Examples, Head, HeldOut, PerUser, Report
from mtrec.sharding import make_table
from mtrec.tables import seed_for


class Rating(Head):
    """Biased matrix factorisation over the towers' outputs, and an optional MLP.

    `prediction = mean + b_user + b_item + <p, q> + MLP([p, q, p * q])`, where p and q are this
    head's representations of user and item (Koren, Bell, Volinsky 2009). The loss is the squared
    error plus `l2 * (|p|^2 + |q|^2 + b_user^2 + b_item^2)` of each row. Rows without a rating are
    masked.

    Args:
        dim: Width of p and q.
        layers: Widths of the MLP's hidden layers; empty for none.
        l2: Weight of the regularisation, in squared rating units.
    """

    def __init__(self, *, dim: int, layers: Sequence[int], l2: float) -> None:
        super().__init__(dim=dim)
        self.layers = list(layers)
        self.l2 = l2

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, seed: int) -> None:
        """Starts the global bias at the mean training rating, user and item biases at 0."""
        ratings = np.asarray(dataset.interactions["rating"])[fit]
        self.low, self.high = dataset.rating_scale
        known = ratings[np.isfinite(ratings)]
        self.train_mean = float(known.mean(dtype=np.float64)) if len(known) else 0.0
        self.mean = self.add_weight(shape=(), initializer="zeros", name="mean")
        self.mean.assign(self.train_mean)
        users = np.zeros((dataset.num_users + 1, 1), np.float32)
        items = np.zeros((dataset.num_items + 1, 1), np.float32)
        self.user_bias = make_table(users, name="user_bias")
        self.item_bias = make_table(items, name="item_bias")
        self.mlp = []
        width = 3 * (self.dim or 0)
        for position, units in enumerate([*self.layers, 1] if self.layers else []):
            name = f"rating_mlp_{position}"
            kernel = keras.initializers.GlorotUniform(seed=seed_for(seed, name))
            activation = "relu" if position < len(self.layers) else None
            layer = keras.layers.Dense(units, activation, kernel_initializer=kernel, name=name)
            layer.build((None, width))
            self.mlp.append(layer)
            width = units

    def predict(
        self, p: tf.Tensor, q: tf.Tensor, user_bias: tf.Tensor, item_bias: tf.Tensor
    ) -> tf.Tensor:
        """Predicted ratings `[N]` of pairs `[N, D]`, not yet clipped to the scale."""
        prediction = self.mean + user_bias + item_bias + tf.reduce_sum(p * q, axis=-1)
        if self.mlp:
            hidden = tf.concat([p, q, p * q], axis=-1)
            for layer in self.mlp:
                hidden = layer(hidden)
            prediction += hidden[..., 0]
        return prediction

    def score_pairs(
        self, query: tf.Tensor, candidate: tf.Tensor, users: tf.Tensor, items: tf.Tensor
    ) -> tf.Tensor:
        """Predicted ratings `[N]` within the scale, of pairs `[N, D]` and their row numbers."""
        biases = self.user_bias(users)[:, 0], self.item_bias(items)[:, 0]
        return tf.clip_by_value(self.predict(query, candidate, *biases), self.low, self.high)

    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """Squared error and regularisation of each row, masked where there is no rating."""
        batch = examples.batch
        p = tf.gather(examples.query, batch["row_query"])  # [N, D]
        q = tf.gather(examples.item, batch["row_item"])  # [N, D]
        user_bias = self.user_bias(tf.gather(batch["query"], batch["row_query"]))[:, 0]
        item_bias = self.item_bias(tf.gather(batch["item"], batch["row_item"]))[:, 0]
        rated = tf.math.is_finite(batch["row_rating"])
        rating = tf.where(rated, batch["row_rating"], 0.0)
        error = tf.square(self.predict(p, q, user_bias, item_bias) - rating)
        size = tf.reduce_sum(p * p + q * q, axis=-1) + user_bias**2 + item_bias**2
        mask = batch["row_weight"] * tf.cast(rated, tf.float32)
        return error + self.l2 * size, mask

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """`raw`: predictions of the interactions that carry a rating, not yet clipped."""
        rated = np.isfinite(held_out.rating)
        owner, item = held_out.owner[rated], held_out.item[rated]
        raw = self.predict(
            tf.gather(query, owner),
            tf.gather(candidate, item - 1),
            self.user_bias(held_out.users[owner])[:, 0],
            self.item_bias(item)[:, 0],
        )
        return {"raw": raw.numpy()}

    def report(
        self, held_out: HeldOut, measured: Mapping[str, np.ndarray], *, full: bool
    ) -> Report:
        """Errors on the held-out interactions that carry a rating."""
        rated = np.isfinite(held_out.rating)
        if not rated.any():
            return Report(metrics={})
        owner, item, truth = held_out.owner[rated], held_out.item[rated], held_out.rating[rated]
        raw = measured["raw"]
        clipped = np.clip(raw, self.low, self.high)
        found = metrics.rating_errors(raw, clipped, truth)
        if not full:
            return Report(metrics=found)
        of_rows = metrics.row_errors(raw, clipped, truth)
        per_user = PerUser.summed(of_rows, owner, len(held_out.users))
        report = Report(metrics=found, per_user=per_user)
        mean = np.full_like(truth, self.train_mean)
        report.baseline.update(metrics.rating_errors(mean, mean, truth))
        report.tables["calibration"] = metrics.calibration(clipped, truth, bins=10)
        report.tables["predicted_against_true"] = metrics.predicted_against_true(
            clipped, truth, low=self.low, high=self.high, bins=20
        )
        errors = (np.square(clipped - truth), np.square(mean - truth))
        report.slices.extend(_slices(held_out, owner, item, *errors))
        return report


def _slices(
    held_out: HeldOut, owner: np.ndarray, item: np.ndarray, model: np.ndarray, mean: np.ndarray
) -> list[dict[str, Any]]:
    def rmse(squared: np.ndarray) -> float:
        return float(np.sqrt(np.mean(squared, dtype=np.float64)))

    groups = slices.user_groups(held_out.dataset, held_out.known, held_out.users)
    labels = {"items": slices.item_groups(held_out.known, held_out.dataset.num_items)[item]}
    labels |= {name: group[owner] for name, group in groups.items()}
    return [
        row
        for name, group in labels.items()
        for row in slices.by_group(name, group, "rmse", model, mean, rmse)
    ]
