"""The two towers and how the heads share them."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.errors import UserError
from mtrec.features import Feature, History
from mtrec.heads.head import Head
from mtrec.tables import seed_for

SHARED = "shared"


class Tower(keras.layers.Layer):
    """One side of the model: rows of a table -> one representation for each head.

    A representation is the sum of its features' embeddings (LightFM; Kula 2015,
    arXiv:1507.08439). The shared one then passes through `layers`, and every head reads it: as it
    is, or projected to the head's own width, plus the features that only this head has.

    Args:
        features: For `shared` and for any head's name, its features by name.
        dim: Width D of the shared representation.
        layers: Widths of the dense layers over the shared sum; the last one is linear.
        activation: Activation between those layers.
        initializer: Initializer of their kernels, `identity` or a random one by Keras' name.
        stddev: Standard deviation of embeddings at the start.
    """

    def __init__(
        self,
        *,
        features: Mapping[str, Mapping[str, Feature | History]],
        dim: int,
        layers: Sequence[int],
        activation: str,
        initializer: str,
        stddev: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.layers = list(layers)
        self.activation = activation
        self.initializer = initializer
        self.stddev = stddev
        self.histories = {
            scope: {name: f for name, f in group.items() if isinstance(f, History)}
            for scope, group in features.items()
        }
        self.features = {
            scope: {name: f for name, f in group.items() if isinstance(f, Feature)}
            for scope, group in features.items()
        }
        self.output_dim = self.layers[-1] if self.layers else dim

    def adapt(
        self, columns: Mapping[str, np.ndarray], *, table: str, heads: Mapping[str, Head], seed: int
    ) -> None:
        """Fits the features to a table and makes all weights.

        Raises:
            UserError: If a feature reads a column that the table lacks or that is not of its kind,
                or there is no shared feature.
        """
        if not (self.features.get(SHARED) or self.histories.get(SHARED)):
            raise UserError(f"data.features.{table}.shared must name at least one feature.")
        widths = {SHARED: self.dim} | {n: h.dim or self.output_dim for n, h in heads.items()}
        # Not weights: the encoded table, looked up by row number in the step and in the export.
        self.encoded: dict[str, tf.Tensor] = {}
        for scope in (SHARED, *heads):
            for name, feature in self.features.get(scope, {}).items():
                path = f"{table}/{scope}/{name}"
                if feature.column not in columns:
                    raise UserError(
                        f"data.features.{path.replace('/', '.')} reads the column "
                        f"{feature.column!r}, which the {table} table lacks; "
                        f"it has {', '.join(columns)}."
                    )
                values = np.asarray(columns[feature.column])
                feature.check(values, named_by=f"data.features.{path.replace('/', '.')}")
                feature.adapt(values)
                feature.create(name=path, dim=widths[scope], stddev=self.stddev, seed=seed)
                self.encoded[path] = tf.constant(feature.encode(values))
        self._make_layers(table, heads, seed)
        self.table = table
        self.heads = list(heads)
        # Or else Keras would try to build it, features of heads that are not trained included.
        self.built = True

    def _make_layers(self, table: str, heads: Mapping[str, Head], seed: int) -> None:
        def dense(width: int, name: str, activation: str | None, initializer: str) -> keras.Layer:
            kernel = keras.initializers.get(initializer)
            if hasattr(kernel, "seed"):
                kernel = type(kernel)(seed=seed_for(seed, name))
            return keras.layers.Dense(
                width, activation=activation, kernel_initializer=kernel, name=name
            )

        self.bottom = []
        width = self.dim
        for position, units in enumerate(self.layers):
            activation = self.activation if position < len(self.layers) - 1 else None
            layer = dense(units, f"{table}_layer_{position}", activation, self.initializer)
            layer.build((None, width))
            self.bottom.append(layer)
            width = units
        self.projections = {}
        for name, head in heads.items():
            if head.dim is not None:
                layer = dense(head.dim, f"{table}_{name}", None, "glorot_uniform")
                layer.build((None, width))
                self.projections[name] = layer

    def encode_row(self, values: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Encodes one row that is not in the table, from raw values by column.

        Returns:
            What `call` takes as `replaced`; features whose column has no value are left out.

        Raises:
            UserError: If no feature reads one of the columns, or a number is given as text.
        """
        replaced = {
            f"{self.table}/{scope}/{name}": _encoded(feature, values[feature.column])
            for scope in (SHARED, *self.heads)
            for name, feature in self.features.get(scope, {}).items()
            if feature.column in values
        }
        columns = {f.column for group in self.features.values() for f in group.values()}
        if unread := sorted(set(values) - columns):
            raise UserError(
                f"{unread[0]!r} must be a column that a feature of the {self.table} tower reads: "
                f"{', '.join(sorted(columns)) or 'there is none'}."
            )
        return replaced

    def _sum(
        self,
        scope: str,
        rows: tf.Tensor,
        histories: Mapping[str, tf.Tensor],
        replaced: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        vectors = []
        for name, feature in self.features.get(scope, {}).items():
            path = f"{self.table}/{scope}/{name}"
            encoded = replaced[path] if path in replaced else tf.gather(self.encoded[path], rows)
            vectors.append(feature(encoded))
        vectors += [histories[name] for name in self.histories.get(scope, {})]
        return tf.add_n(vectors) if vectors else None

    def call(
        self,
        rows: tf.Tensor,
        histories: Mapping[str, tf.Tensor],
        replaced: Mapping[str, tf.Tensor] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Representations of table rows `[B]` for each head, `[B, D]`.

        Args:
            rows: Row numbers in the table.
            histories: The pooled history features of those rows, by feature name.
            replaced: Encoded values that stand in for the table's; see `encode_row`.
        """
        replaced = replaced or {}
        shared = self._sum(SHARED, rows, histories, replaced)
        for layer in self.bottom:
            shared = layer(shared)
        outputs = {}
        for head in self.heads:
            output = self.projections[head](shared) if head in self.projections else shared
            own = self._sum(head, rows, histories, replaced)
            outputs[head] = output if own is None else output + own
        return outputs


def _encoded(feature: Feature, value: Any) -> tf.Tensor:
    try:
        return tf.constant(feature.encode(np.asarray([value])))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"A value of {feature.column!r} must be {feature.reads or 'a value or a list'}; "
            f"got {value!r}."
        ) from error


class Recommender(keras.layers.Layer):
    """Query tower, candidate tower and the heads trained on both.

    Args:
        query: The tower over users.
        candidate: The tower over items.
        heads: The heads by name.
    """

    def __init__(self, *, query: Tower, candidate: Tower, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.query = query
        self.candidate = candidate
        self.heads = dict(heads)

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, seed: int) -> "Recommender":
        """Fits features and heads to the data and makes all weights; returns the model itself.

        Args:
            dataset: The data.
            fit: Row numbers of the interactions to train on, `[rows]`.
            seed: Seed of all initial weights. Each weight depends on this and its own name alone,
                so that a head more or less changes no other weight.
        """
        self._check()
        for head in self.heads.values():
            head.adapt(dataset, fit, seed=seed)
        self.candidate.adapt(dataset.items, table="candidate", heads=self.heads, seed=seed)
        self.query.adapt(dataset.users, table="query", heads=self.heads, seed=seed)
        return self

    def _check(self) -> None:
        query, candidate = self.query.output_dim, self.candidate.output_dim
        for name, head in self.heads.items():
            if head.dim is None and query != candidate:
                raise UserError(
                    f"The towers must end in one width for the head {name!r}; the query tower "
                    f"ends in {query}, the candidate tower in {candidate}. "
                    f"Set task.heads.{name}.dim, or change model.query or model.candidate."
                )
        pooled = self.candidate.features.get(SHARED, {})
        for side, tower in (("query", self.query), ("candidate", self.candidate)):
            for scope, group in tower.histories.items():
                for name, history in group.items():
                    path = f"data.features.{side}.{scope}.{name}"
                    if (side, scope) != ("query", SHARED):
                        raise UserError(
                            f"{path} is a history, which must stand under "
                            f"data.features.query.{SHARED}. Move it there."
                        )
                    if history.candidate not in pooled:
                        raise UserError(
                            f"{path} must pool a feature of data.features.candidate.{SHARED} "
                            f"({', '.join(pooled) or 'there is none'}); got {history.candidate!r}."
                        )

    def queries(
        self,
        rows: tf.Tensor,
        history_items: tf.Tensor,
        owners: tf.Tensor,
        replaced: Mapping[str, tf.Tensor] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Query representations of user rows `[Q]` with the items each is known to have chosen.

        Args:
            rows: User rows, `[Q]`.
            history_items: Item rows of all histories side by side, `[H]`.
            owners: Position in `rows` that each belongs to, `[H]`; -1 for padding.
            replaced: Encoded values of users that are not in the table; see `Tower.encode_row`.
        """
        pooled = {}
        for name, history in self.query.histories.get(SHARED, {}).items():
            feature = self.candidate.features[SHARED][history.candidate]
            encoded = self.candidate.encoded[f"candidate/{SHARED}/{history.candidate}"]
            vectors = feature(tf.gather(encoded, history_items))
            pooled[name] = history(vectors, owners, tf.shape(rows)[0])
        return self.query(rows, pooled, replaced)

    def candidates(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Candidate representations of item rows `[M]`."""
        return self.candidate(rows, {})
