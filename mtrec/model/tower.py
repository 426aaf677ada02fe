"""A tower: one side of the model, and how the heads share it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.columns import Column, Ragged, entries_of, held
from mtrec.data.marks import ascending
from mtrec.data.requests import CONTEXT
from mtrec.errors import UserError, require
from mtrec.heads.head import Head
from mtrec.heads.max_similarity import starting_kernel
from mtrec.model.bags import BagRows, EncodedBags, gather, on_device, unknown_where
from mtrec.model.experts import SHARED, dense
from mtrec.model.features import Feature, History
from mtrec.model.labelled_history import LabelledHistory
from mtrec.model.sharing import Gates, Sharing

# By `shared` and, where heads have tables of their own, by head: pooled history features by name.
Pooled = Mapping[str, Mapping[str, tf.Tensor]]


class Tower(keras.layers.Layer):
    """One side of the model: rows of a table -> one representation for each head.

    The shared features' embeddings are summed (LightFM; Kula 2015, arXiv:1507.08439), `sharing`
    makes a representation of that for each head, and the head takes it as it is, or projected to
    its own width, plus the sum of the features that only this head has. The K query vectors of a
    head come out of one projection, K times as wide, as do its own features of the query tower.

    Args:
        features: For `shared` and for any head's name, its features by name.
        dim: Width D of the shared sum.
        sharing: How the heads share the tower.
        stddev: Standard deviation of embeddings at the start.
    """

    def __init__(
        self,
        *,
        features: Mapping[str, Mapping[str, Feature | History | LabelledHistory]],
        dim: int,
        sharing: Sharing,
        stddev: float,
    ) -> None:
        super().__init__()
        require("`dim`", dim, least=1)
        require("`stddev`", stddev, above=0)
        self.dim = dim
        self.sharing = sharing
        self.stddev = stddev
        self.histories = {
            scope: {name: f for name, f in group.items() if isinstance(f, History)}
            for scope, group in features.items()
        }
        self.labelled = {
            scope: {name: f for name, f in group.items() if isinstance(f, LabelledHistory)}
            for scope, group in features.items()
        }
        self.features = {
            scope: {name: f for name, f in group.items() if isinstance(f, Feature)}
            for scope, group in features.items()
        }
        self.output_dim = sharing.output_dim(dim)

    def adapt(
        self,
        columns: Mapping[str, Column],
        *,
        trained: Mapping[str, np.ndarray],
        learnt: Mapping[str, np.ndarray],
        table: str,
        heads: Mapping[str, Head],
        seed: int,
    ) -> None:
        """Fits the features to a table and makes all weights.

        Args:
            columns: The table's columns by name, `[rows, ...]`.
            trained: For `shared` and for each head, how many training rows name each row of the
                table, `[rows]`. An embedding that none of them reads would stay what it was drawn
                as: what reads it is served as unknown.
            learnt: Likewise the training rows themselves, row r being row r + 1 of columns that
                have `context.` before their names, of the requests.
            table: `query` or `candidate`.
            heads: The heads by name.
            seed: Seed of all initial weights.

        Raises:
            UserError: If a feature reads a column that the table lacks or that is not of its kind,
                or there is no shared feature.
        """
        if not (self.features.get(SHARED) or self.histories.get(SHARED)):
            raise UserError(f"`features.{table}.shared` must name at least one feature.")
        self.table = table
        self.heads = list(heads)
        query = table == "query"
        self.vectors = {name: head.query_vectors if query else 1 for name, head in heads.items()}
        # Not weights: the encoded table, looked up by row number in the step and in the export.
        self.encoded: dict[str, tf.Tensor | EncodedBags] = {}
        # Features that are looked up by request.
        self.contexts: list[str] = []
        # Of features that encode as row numbers of an embedding table, those that are trained.
        self.trained_rows: dict[str, np.ndarray] = {}
        for scope in (SHARED, *heads):
            for name, feature in self.features.get(scope, {}).items():
                path = f"{table}/{scope}/{name}"
                of_request = feature.column.startswith(CONTEXT)
                times = np.bincount(learnt[scope] + 1) if of_request else trained[scope]
                self._fit(feature, columns, times, path)
                self.contexts += [path] * of_request
        # The shared features, and where the scheme asks for it, once more for each head.
        self.spaces = {SHARED: self.features.get(SHARED, {})}
        if self.sharing.own_tables:
            self.spaces |= {
                head: {name: f.twin() for name, f in self.spaces[SHARED].items()} for head in heads
            }
        # What one space's vectors mean to a pooling says nothing of another's.
        self.poolings = {
            space: {
                name: history.pooling if space == SHARED else history.pooling.twin()
                for name, history in self.histories.get(SHARED, {}).items()
            }
            for space in self.spaces
        }
        self._create(heads, seed)
        # Or else Keras would try to build it, features of heads that are not trained included.
        self.built = True

    def _fit(
        self, feature: Feature, columns: Mapping[str, Column], times: np.ndarray, path: str
    ) -> None:
        named_by = f"features.{path.replace('/', '.')}"
        if feature.column not in columns:
            raise UserError(
                f"`{named_by}` reads the column {feature.column!r}, which the {self.table} table "
                f"lacks; it has {', '.join(columns)}."
            )
        values = held(columns[feature.column])
        feature.check(values, named_by=named_by)
        feature.adapt(values)
        encoded = feature.encode(values)
        if feature.cut(encoded, np.pad(times, (0, len(values) - len(times)))):
            encoded = feature.encode(values)
        found = entries_of(encoded, np.flatnonzero(times))
        if found.dtype.kind == "i":
            self.trained_rows[path] = ascending(found)
        self.encoded[path] = on_device(self._as_trained(encoded, path))

    def _as_trained(self, encoded: np.ndarray | Ragged, path: str) -> np.ndarray | Ragged:
        """Encoded values with 0, which is unknown, for row numbers that are not trained."""
        if path not in self.trained_rows:
            return encoded
        if isinstance(encoded, Ragged):
            return encoded._replace(values=self._known(encoded.values, path))
        return self._known(encoded, path)

    def _known(self, rows: np.ndarray, path: str) -> np.ndarray:
        return np.where(np.isin(rows, self.trained_rows[path]), rows, np.int32(0))

    def _create(self, heads: Mapping[str, Head], seed: int) -> None:
        def create(feature: Feature | LabelledHistory, path: str, dim: int) -> None:
            feature.create(name=f"{self.table}/{path}", dim=dim, stddev=self.stddev, seed=seed)

        for space, group in self.spaces.items():
            scope = SHARED if space == SHARED else f"{SHARED}/{space}"
            for name, feature in group.items():
                create(feature, f"{scope}/{name}", self.dim)
            for name, pooling in self.poolings[space].items():
                path = f"{self.table}/{scope}/{name}".replace("/", "_")
                pooling.create(name=path, dim=self.dim, seed=seed)
        self.sharing.create(table=self.table, heads=self.heads, dim=self.dim, seed=seed)
        self.projections = {}
        for head, objective in heads.items():
            dim, vectors = objective.dim or self.output_dim, self.vectors[head]
            for name, feature in self.features.get(head, {}).items():
                create(feature, f"{head}/{name}", vectors * dim)
            for name, labelled in self.labelled.get(head, {}).items():
                create(labelled, f"{head}/{name}", vectors * dim)
            if objective.dim is not None or vectors > 1:
                self.projections[head] = self._projection(head, objective.dim, seed)

    def _projection(self, head: str, dim: int | None, seed: int) -> keras.layers.Dense:
        """The layer to a head's vectors, `[B, W] -> [B, K D]`; `dim` is null for D = W."""
        vectors, name = self.vectors[head], f"{self.table}_{head}"
        start: str | Callable[..., tf.Tensor] = "glorot_uniform"
        if vectors > 1:
            start = starting_kernel(self.output_dim, dim, vectors, name=name, seed=seed)
        layer = dense(vectors * (dim or self.output_dim), name, None, start, seed)
        layer.build((None, self.output_dim))
        return layer

    def of_requests(self, rows: tf.Tensor) -> dict[str, tf.Tensor | BagRows]:
        """What `call` takes as `replaced`: the context of requests, given their rows `[Q]`."""
        return {path: self._gather(path, rows) for path in self.contexts}

    def encode_row(self, values: Mapping[str, Any]) -> dict[str, tf.Tensor | BagRows]:
        """Encodes one row that is not in the table, from raw values by column.

        Returns:
            What `call` takes as `replaced`; features whose column has no value are left out.

        Raises:
            UserError: If no feature reads one of the columns, or a number is given as text.
        """
        found = {
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
        row = {path: on_device(self._as_trained(e, path)) for path, e in found.items()}
        return {path: gather(e, tf.constant([0]), times=1) for path, e in row.items()}

    def _vectors(
        self,
        scope: str,
        features: Mapping[str, Feature],
        rows: tf.Tensor,
        replaced: Mapping[str, tf.Tensor | BagRows],
        draw: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        vectors = []
        for name, feature in features.items():
            path = f"{self.table}/{scope}/{name}"
            encoded = replaced[path] if path in replaced else self._gather(path, rows)
            if draw is not None and feature.dropout:
                encoded = feature.dropped(encoded, draw)
            vectors.append(feature(encoded))
        return vectors

    def _gather(self, path: str, rows: tf.Tensor) -> tf.Tensor | BagRows:
        # A step asks for each item at most as a batch's and the pool's; rows may share a user.
        return gather(self.encoded[path], rows, times=2 if self.table == "candidate" else None)

    def _shared(
        self,
        rows: tf.Tensor,
        histories: Pooled,
        replaced: Mapping[str, tf.Tensor | BagRows],
        draw: tf.Tensor | None,
    ) -> tuple[dict[str, tf.Tensor], Gates]:
        sums = {}
        for space, features in self.spaces.items():
            vectors = self._vectors(SHARED, features, rows, replaced, draw)
            sums[space] = tf.add_n([*vectors, *histories.get(space, {}).values()])
        return self.sharing(sums)

    def call(
        self,
        rows: tf.Tensor,
        histories: Pooled,
        replaced: Mapping[str, tf.Tensor | BagRows] | None = None,
        draw: tf.Tensor | None = None,
        labelled: Mapping[str, Sequence[tf.Tensor]] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Representations of table rows `[B]` for each head.

        `[B, D]`, or `[B, K, D]` in the query tower for a head with K query vectors.

        Args:
            rows: Row numbers in the table.
            histories: The pooled history features of those rows.
            replaced: Encoded values that stand in for the table's; see `encode_row`.
            draw: In training, a number from 0 to 1 for each row, `[B]`: features with a `dropout`
                above it are served as unknown.
            labelled: The labelled histories of those rows for each head that has some.
        """
        replaced = replaced or {}
        shared, _ = self._shared(rows, histories, replaced, draw)
        outputs = {}
        for head in self.heads:
            said = (labelled or {}).get(head, [])
            outputs[head] = self._of_head(head, shared[head], rows, replaced, draw, said)
        return outputs

    def _of_head(
        self,
        head: str,
        output: tf.Tensor,
        rows: tf.Tensor,
        replaced: Mapping[str, tf.Tensor | BagRows],
        draw: tf.Tensor | None,
        labelled: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        if head in self.projections:
            output = self.projections[head](output)
        own = self._vectors(head, self.features.get(head, {}), rows, replaced, draw)
        own += labelled
        output = tf.add_n([output, *own])
        if (vectors := self.vectors[head]) > 1:
            output = tf.reshape(output, [-1, vectors, output.shape[-1] // vectors])
        return output

    def paths(self, head: str) -> list[str]:
        """The features that a head's representation is made of, as `encoded` names them."""
        scopes = (SHARED, head)
        return [f"{self.table}/{s}/{name}" for s in scopes for name in self.features.get(s, {})]

    def view(self, head: str, rows: tf.Tensor, shown: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """A head's representations of table rows `[B]` as some features alone show them, `[B, D]`.

        Args:
            head: The head.
            rows: Row numbers in the table.
            shown: By path, whether a feature is shown, a scalar; or else all values are unknown.
        """
        replaced: dict[str, tf.Tensor | BagRows] = {}
        for path, show in shown.items():
            replaced[path] = unknown_where(~show, self._gather(path, rows))
        shared, _ = self._shared(rows, {}, replaced, None)
        return self._of_head(head, shared[head], rows, replaced, None, [])

    def gates(
        self, rows: tf.Tensor, histories: Pooled, replaced: Mapping[str, tf.Tensor | BagRows]
    ) -> Gates:
        """What the gates give each expert for table rows `[B]`; empty without gates."""
        return self._shared(rows, histories, replaced, None)[1]


def _encoded(feature: Feature, value: Any) -> np.ndarray | Ragged:
    try:
        return feature.encode(held([value]))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"A value of {feature.column!r} must be {feature.reads or 'a value or a list'}; "
            f"got {value!r}."
        ) from error
