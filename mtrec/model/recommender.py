"""The model: two towers and the heads that are trained on both."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import QueryInputs
from mtrec.data.requests import QueryColumns
from mtrec.data.room import counted
from mtrec.errors import UserError
from mtrec.heads.given import Given
from mtrec.heads.head import Head
from mtrec.heads.pair import PairHead
from mtrec.model.bags import known_rows
from mtrec.model.experts import SHARED
from mtrec.model.of_row import OfRow
from mtrec.model.pair_features import PairFeatures
from mtrec.model.sharing import Gates
from mtrec.model.tower import Pooled, Tower
from mtrec.model.views import CorrelatedMasks


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
        for head in heads.values():
            if isinstance(head, PairHead) and head.features:
                head.pair = PairFeatures(head.features)
        self._bind()

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, seed: int) -> "Recommender":
        """Fits features and heads to the data and makes all weights; returns the model itself.

        Args:
            dataset: The data.
            fit: Row numbers of the interactions to train on, `[rows]`.
            seed: Seed of all initial weights. Each weight depends on this and its own name alone,
                so that a head more or less changes no other weight.
        """
        self._check()
        self._check_dropout()
        self._check_views()
        self._adapt_labelled(dataset, fit)
        for name, head in self.heads.items():
            head.adapt(dataset, fit, name=name, seed=seed)
        learnt = {SHARED: fit, **{n: head.learns(dataset, fit) for n, head in self.heads.items()}}
        for tower, side, table, count in (
            (self.candidate, "item", dataset.items, dataset.num_items),
            (self.query, "user", QueryColumns(dataset), dataset.num_users),
        ):
            trained = {
                scope: counted(dataset.interactions[side], count + 1, learns)
                for scope, learns in learnt.items()
            }
            name = "candidate" if side == "item" else "query"
            tower.adapt(
                table,
                trained=trained,
                learnt=learnt,
                table=name,
                heads=self.heads,
                seed=seed,
            )
        viewed = {n: self.candidate.paths(n) for n, head in self.heads.items() if head.views}
        self.masks = {
            name: CorrelatedMasks(
                {path: known_rows(self.candidate.encoded[path]) for path in paths}
            )
            for name, paths in viewed.items()
        }
        return self

    def _bind(self) -> None:
        """Gives heads those that they are conditioned on."""
        for name, head in self.heads.items():
            seen, given = [name], _given(head)
            while given:
                other = self.heads.get(given.head)
                if given.head in seen or not isinstance(other, PairHead):
                    key = f"heads.{seen[-1]}.given"
                    raise UserError(
                        f"`{key}.head` must name a head before it that predicts a number for a "
                        f"pair, and has a weight above 0; got {given.head}, there are "
                        f"{', '.join(self.heads)}. Correct it, or set `{key}`=null."
                    )
                if len(seen) == 1:
                    head.condition(other)
                seen.append(given.head)
                given = _given(other)

    def _conditioned(self, vectors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Each head's representations, those of the head that it is given behind its own."""

        def whole(name: str) -> tf.Tensor:
            given, own = _given(self.heads[name]), vectors[name]
            return tf.concat([own, whole(given.head)], axis=-1) if given else own

        return {name: whole(name) for name in vectors}

    def _check(self) -> None:
        query, candidate = self.query.output_dim, self.candidate.output_dim
        for name, head in self.heads.items():
            if head.dim is None and query != candidate:
                raise UserError(
                    f"The towers must end in one width for the head {name!r}; the query tower "
                    f"ends in {query}, the candidate tower in {candidate}. "
                    f"Set `heads.{name}.dim`, or change `query` or `candidate`."
                )
        own_tables = self.query.sharing.own_tables and not self.candidate.sharing.own_tables
        if own_tables and self.query.histories.get(SHARED):
            raise UserError(
                "`sharing.candidate` must have tables for each head where `sharing.query` has, "
                "because the query tower's history reads them. Choose the same for both."
            )
        pooled = self.candidate.features.get(SHARED, {})
        for side, tower in (("query", self.query), ("candidate", self.candidate)):
            for scope, group in tower.histories.items():
                for name, history in group.items():
                    path = f"features.{side}.{scope}.{name}"
                    if (side, scope) != ("query", SHARED):
                        raise UserError(
                            f"`{path}` is a history, which must stand under "
                            f"`features.query.{SHARED}`. Move it there."
                        )
                    if self.query.dim != self.candidate.dim:
                        raise UserError(
                            f"`query.dim` must be `candidate.dim` ({self.candidate.dim}), "
                            f"as `{path}` reads that tower's vectors; got {self.query.dim}. "
                            "Set both alike."
                        )
                    if history.candidate not in pooled:
                        raise UserError(
                            f"`{path}` must pool a feature of `features.candidate.{SHARED}` "
                            f"({', '.join(pooled) or 'there is none'}); got {history.candidate!r}."
                        )

    def _check_dropout(self) -> None:
        for scope, group in self.candidate.features.items():
            for name, feature in group.items():
                if feature.dropout:
                    raise UserError(
                        f"`features.candidate.{scope}.{name}.dropout` must be 0, because "
                        f"only queries are drawn for it; got {feature.dropout}."
                    )

    def _check_views(self) -> None:
        for name, head in self.heads.items():
            features = [f for s in (SHARED, name) for f in self.candidate.features.get(s, {})]
            if head.views and len(features) < 2:
                raise UserError(
                    f"`features.candidate.{SHARED}` must name at least two features for the "
                    f"head {name!r}, which compares what one half of them shows of an item with "
                    f"the other half; got {', '.join(features) or 'none'}. Add one there, or set "
                    f"`weights.{name}`=0."
                )

    def _adapt_labelled(self, dataset: Dataset, fit: np.ndarray) -> None:
        for side, tower in (("query", self.query), ("candidate", self.candidate)):
            for scope, group in tower.labelled.items():
                for name, labelled in group.items():
                    path = f"features.{side}.{scope}.{name}"
                    if side != "query" or scope == SHARED:
                        raise UserError(
                            f"`{path}` is a labelled history, which must stand under "
                            "`features.query.<head>`. Move it there."
                        )
                    labelled.adapt(dataset, fit, named_by=path)

    @property
    def reads(self) -> list[str]:
        """The labels of histories that the query tower reads."""
        groups = (self.query.labelled.get(head, {}) for head in self.heads)
        return sorted({labelled.label for group in groups for labelled in group.values()})

    @property
    def of_rows(self) -> dict[str, OfRow]:
        """What heads read of rows and whoever asks may send, by their paths."""
        found = [f for pair in self._pairs() for f in pair.features.values()]
        return {f.key: f for f in found if isinstance(f, OfRow) and f.serve_as is None}

    @property
    def reads_before(self) -> bool:
        """Whether a head asks what users did with items before."""
        return any(head.before for head in self.heads.values())

    @property
    def reads_time(self) -> bool:
        """Whether a head asks when a pair is asked about."""
        return any(pair.reads_time for pair in self._pairs())

    def _pairs(self) -> list[PairFeatures]:
        heads = [head for head in self.heads.values() if isinstance(head, PairHead)]
        return [head.pair for head in heads if head.pair]

    def queries(self, inputs: QueryInputs) -> dict[str, tf.Tensor]:
        """Query representations for each head, `[Q, D]`, or `[Q, K, D]` with K query vectors."""
        users, history = inputs.users, inputs.history
        at = tf.range(tf.size(history.items)) if history.places is None else history.places
        labelled = {
            head: [
                said(history.items, at, history.owners, history.labels[said.label], tf.size(users))
                for said in self.query.labelled.get(head, {}).values()
                if said.label in history.labels
            ]
            for head in self.heads
        }
        told = self._told(inputs)
        return self._conditioned(
            self.query(users, self._pooled(inputs), told, inputs.draw, labelled)
        )

    def _told(self, inputs: QueryInputs) -> dict[str, Any]:
        """Encoded values in place of the users' table's: what was sent, and requests' context."""
        users, requests = inputs.users, inputs.requests
        rows = tf.zeros_like(users) if requests is None else requests
        return {**self.query.of_requests(rows), **inputs.replaced}

    def _pooled(self, inputs: QueryInputs) -> Pooled:
        history, draw = inputs.history, inputs.draw
        pooled: dict[str, dict[str, tf.Tensor]] = {space: {} for space in self.query.spaces}
        for name, feature in self.query.histories.get(SHARED, {}).items():
            encoded = self.candidate.encoded[f"candidate/{SHARED}/{feature.candidate}"]
            items = tf.gather(encoded, history.items)
            drops = draw is not None and feature.dropout > 0
            hidden = draw < feature.dropout if drops else None
            for space in pooled:
                vectors = self.candidate.spaces[space][feature.candidate](items)
                if history.places is not None:
                    vectors = tf.gather(vectors, history.places)
                pooling = self.query.poolings[space][name]
                pooled[space][name] = pooling(
                    vectors, history.owners, tf.size(inputs.users), hidden
                )
        return pooled

    def candidates(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Candidate representations of item rows `[M]`."""
        return self._conditioned(self.candidate(rows, {}))

    def views(self, head: str, rows: tf.Tensor, draw: tf.Tensor) -> list[tf.Tensor]:
        """Two views of item rows `[M]`, each made of the features that the other hides.

        Args:
            head: The head that compares them.
            rows: Item rows.
            draw: A whole number drawn for the step, which chooses the features.

        Returns:
            The head's candidate representations of both, `[M, D]` each.
        """
        masks = self.masks[head]
        return [self.candidate.view(head, rows, shown) for shown in masks.halves(draw)]

    def gates(self, inputs: QueryInputs, items: tf.Tensor) -> dict[str, Gates]:
        """What the gates of both towers give each expert for queries and item rows `[M]`."""
        return {
            "query": self.query.gates(inputs.users, self._pooled(inputs), self._told(inputs)),
            "candidate": self.candidate.gates(items, {}, {}),
        }


def _given(head: Head) -> Given | None:
    """What a head makes of another one's output, if it does."""
    return head.given if isinstance(head, PairHead) else None
