"""What heads share that predict a number for a pair of user and item."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch, HistoryInputs, PairInputs, QueryInputs
from mtrec.distributed.sharded_tables import make_table
from mtrec.distributed.weights import dense
from mtrec.errors import UserError, require
from mtrec.heads import metrics, slices
from mtrec.heads.cross import Cross
from mtrec.heads.given import Given
from mtrec.heads.head import Examples, Head, HeldOut
from mtrec.heads.moving_biases import MovingBiases
from mtrec.heads.pairs import Judged, Learnt, Told
from mtrec.heads.row_products import product, row_sum
from mtrec.heads.segments import of_owners

# Interactions that are measured at a time.
ROWS_AT_ONCE = 65_536


class PairHead(Head):
    """Biased matrix factorisation over the towers' outputs, and what else is asked to come to it.

    `output = start + b_user + b_item + <p, q> + MLP([p, q, p * q]) + Cross([p, q])`, where p and q
    are this head's representations of user and item (Koren, Bell, Volinsky 2009). MLP and cross
    layers stand side by side, as in DCN v2's parallel structure. What a row costs for its label is
    the head's own affair; `l2 * (|p|^2 + |q|^2 + b_user^2 + b_item^2)` of each row comes to it,
    with the squares of what moves the biases. Rows without the label are masked. What `features`
    make of a pair is a vector that comes to q, and a number for each member that comes to the
    output.

    With `given` it is conditioned on another head, whose representations follow its own, and with
    `where` its space of samples is a part of the rows.

    A head has members, which differ in the factors p and q they started from. Each learns as if it
    were alone, and their mean is what is told: an ensemble (Lakshminarayanan et al., NeurIPS 2017)
    for the price of wider factors.

    Args:
        label: The column of the interactions that is learnt.
        dim: Width of a member's p and q.
        members: Number of members.
        layers: Widths of the MLP's hidden layers, which members share; empty for none.
        l2: Weight of the regularisation.
        cross: Number of cross layers, of which each member has its own; 0 for none. See `Cross`.
        moving_biases: Bins of the training time for biases that move with it; null for biases that
            stay. See `MovingBiases`.
        sampling_rate: See `Head`.
        features: Features of the pair by name; see `mtrec.model.pair_features`.
        given: What it makes of another head's output; null to stand alone. See `Given`.
        where: The label, such as a click, that must be above 0 for a row to be of its space of
            samples; null for all rows.

    Raises:
        UserError: If there is no member, a width below 1, a negative number of cross layers or
            regularisation, or too few bins.
    """

    # Whether the output is log odds.
    odds = False

    def __init__(
        self,
        *,
        label: str,
        dim: int,
        members: int,
        layers: Sequence[int],
        l2: float,
        cross: int = 0,
        moving_biases: int | None = None,
        sampling_rate: float = 1.0,
        features: Mapping[str, Any] | None = None,
        given: Given | None = None,
        where: str | None = None,
    ) -> None:
        if members < 1:
            raise UserError(f"`members` must be at least 1; got {members}.")
        if cross < 0:
            raise UserError(f"`cross` must be at least 0; got {cross}.")
        require("`dim`", dim, least=1)
        require("`l2`", l2, least=0)
        for width in layers:
            require("Each of `layers`", width, least=1)
        super().__init__(dim=dim * members, sampling_rate=sampling_rate)
        self.label = label
        self.members = members
        self.layers = list(layers)
        self.l2 = l2
        self.cross_layers = cross
        self.moving = None if moving_biases is None else MovingBiases(bins=moving_biases)
        self.given = given
        self.where = where
        self.features = features or {}
        # What makes vectors of them, which the model gives.
        self.pair: Any = None

    @property
    def before(self) -> bool:  # type: ignore[override]
        """See `Head`."""
        return bool(self.pair and self.pair.reads_before)

    def condition(self, other: "PairHead") -> None:
        """Takes the head that it is `given`.

        Raises:
            UserError: If both outputs must be log odds and one is not.
        """
        if self.given and self.given.odds and not (self.odds and other.odds):
            raise UserError(
                "`given` must join two heads that predict probabilities; one of both is none. "
                "Name a mtrec.Binary, or take a mtrec.Transfer with `calibration`=0."
            )
        # Behind a function, or Keras would count its weights as this head's.
        self.other = lambda: other

    @abstractmethod
    def begin(self, labels: np.ndarray, dataset: Dataset) -> float:
        """What to predict of every pair at the start, given the known labels of training rows."""

    @abstractmethod
    def error(self, output: tf.Tensor, label: tf.Tensor, batch: Batch) -> tf.Tensor:
        """What each row costs each member, `[N, E]`.

        Args:
            output: Each member's output, `[N, E]`.
            label: The label, `[N, 1]`; 0 where there is none.
            batch: The batch.
        """

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, name: str, seed: int) -> None:
        """Starts the biases of users and items at 0, and what comes to them as `begin` says.

        Raises:
            UserError: If no training row has the label, or the interactions lack times that
                biases could move with.
        """
        labels = self.known(dataset, fit, self.label, name)
        self.start = self.add_weight(shape=(), initializer="zeros", name=f"{name}_start")
        self.start.assign(self.begin(labels[np.isfinite(labels)], dataset))
        users = np.zeros((dataset.num_users + 1, 1), np.float32)
        items = np.zeros((dataset.num_items + 1, 1), np.float32)
        self.user_bias = make_table(users, name=f"{name}_user_bias")
        self.item_bias = make_table(items, name=f"{name}_item_bias")
        self.mlp = []
        width = 3 * (self.dim or 0)
        for position, units in enumerate([*self.layers, self.members] if self.layers else []):
            activation = "relu" if position < len(self.layers) else None
            path = f"{name}_mlp_{position}"
            self.mlp.append(dense(width, units, activation, name=path, seed=seed))
            width = units
        self.cross = None
        if self.cross_layers:
            self.cross = Cross(
                depth=self.cross_layers,
                dim=(self.dim or 0) // self.members,
                members=self.members,
                name=name,
                seed=seed,
            )
        if self.moving:
            self.moving.adapt(dataset, fit[np.isfinite(labels)], name=name)
        if self.pair:
            dim = (self.dim or 0) + self.members
            self.pair.adapt(dataset, fit, head=name, dim=dim, seed=seed)
        if self.given:
            self.given.create(
                width=self.other().dim or 0,
                dim=self.dim or 0,
                members=self.members,
                name=name,
                seed=seed,
            )

    def known(self, dataset: Dataset, fit: np.ndarray, label: str, name: str) -> np.ndarray:
        """The label where it is of the head's space of samples, or else NaN; see `Head`."""
        labels = super().known(dataset, fit, label, name)
        if self.where is not None:
            labels = np.where(super().known(dataset, fit, self.where, name) > 0, labels, np.nan)
            if not np.isfinite(labels).any():
                raise UserError(
                    f"`heads.{name}.where` must leave rows to learn from; no row to fit has a "
                    f"{label} and a {self.where} above 0. Set `heads.{name}.where`=null."
                )
        return labels

    def learns(self, dataset: Dataset, fit: np.ndarray) -> np.ndarray:
        """The training rows that carry the label, and are of its space of samples."""
        labels = {name: np.asarray(dataset.interactions[name])[fit] for name in dataset.labels}
        return fit[np.isfinite(self._label(labels))]

    def _label(self, labels: Mapping[str, Any]) -> Any:
        """The label of rows, `[N]`, NaN where there is none or another space of samples."""
        label = labels[self.label]
        if self.where is None:
            return label
        choose = np.where if isinstance(label, np.ndarray) else tf.where
        return choose(labels[self.where] > 0, label, np.float32("nan"))

    def biases(
        self, users: tf.Tensor, items: tf.Tensor, time: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Biases of users and of items, and what is regularised of them, `[N, 1]` each.

        Args:
            users: User rows, `[N]`.
            items: Item rows, `[N]`.
            time: Seconds since 1970, `[N]`, 0 where there is none; None for the end of training.
        """
        user, item = self.user_bias(users), self.item_bias(items)
        size = tf.add_n([tf.square(user), tf.square(item)])
        if self.moving is None:
            return user, item, size
        drift, of_bin, moved = self.moving(users, items, time)
        return user + drift, item + of_bin, size + moved

    def output(
        self,
        p: tf.Tensor,
        q: tf.Tensor,
        user_bias: tf.Tensor,
        item_bias: tf.Tensor,
        pair: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Each member's outputs `[N, E]` for pairs `[N, D]`.

        Args:
            p: Query representations, `[N, D]`.
            q: Candidate representations, `[N, D]`.
            user_bias: Biases of users, `[N, 1]`.
            item_bias: Biases of items, `[N, 1]`.
            pair: What the features of pairs tell, `[N, D + E]`; None without any.
        """
        # Sums of what has one shape are of `tf.add_n`: its gradient asks no shape at run time.
        outputs = []
        if pair is not None:
            q = tf.add_n([q, pair[:, : self.dim]])
            outputs.append(pair[:, self.dim :])
        members = [-1, self.members, p.shape[1] // self.members]
        outputs.append(row_sum(tf.reshape(product(p, q), members)))
        if self.mlp:
            hidden = tf.concat([p, q, p * q], axis=-1)
            for layer in self.mlp:
                hidden = layer(hidden)
            outputs.append(hidden)
        if self.cross:
            outputs.append(self.cross(p, q))
        return tf.add_n([user_bias, item_bias]) + self.start + tf.add_n(outputs)

    def score_pairs(
        self, query: tf.Tensor, candidate: tf.Tensor, pairs: PairInputs, *, name: str
    ) -> dict[str, tf.Tensor]:
        """What is served of pairs at the end of training; see `Head.score_pairs`."""
        users = tf.gather(pairs.queries.users, pairs.query)
        return self.served(self.mean_output(query, candidate, pairs), users, name=name)

    def mean_output(self, query: tf.Tensor, candidate: tf.Tensor, pairs: PairInputs) -> tf.Tensor:
        """The members' mean for pairs `[N, D]`; without a time, at the end of training."""
        return tf.reduce_mean(self.told(query, candidate, pairs).output, axis=-1)

    def told(self, query: tf.Tensor, candidate: tf.Tensor, pairs: PairInputs) -> Told:
        """What it tells of pairs.

        Args:
            query: Its query representations `[N, D]`, those of the head that is given beside them.
            candidate: Candidate representations, likewise.
            pairs: The pairs; without a time, at the end of training.
        """
        p, q = query, candidate
        if self.given:
            p, q = p[:, : self.dim], q[:, : self.dim]
        users = tf.gather(pairs.queries.users, pairs.query)
        timeless = self.moving is None or isinstance(pairs.time, tuple)
        biases = self.biases(users, pairs.items, None if timeless else pairs.time)
        squares = tf.add_n([tf.square(p), tf.square(q)])
        size = tf.add_n([biases[2][:, 0], row_sum(squares) / self.members])
        pair = None
        if self.pair:
            pair = self.pair(pairs)
            size += row_sum(tf.square(pair)) / self.members
        cost = self.l2 * size if self.l2 else tf.zeros_like(biases[2][:, 0])
        own = Told(self.output(p, q, *biases[:2], pair), p * q, cost)
        if not self.given:
            return own
        others = query[:, self.dim :], candidate[:, self.dim :]
        return self.given(own, self.other().told(*others, pairs))

    @abstractmethod
    def served(self, output: tf.Tensor, users: tf.Tensor, *, name: str) -> dict[str, tf.Tensor]:
        """What people are told of outputs `[N]` for users of these rows, `[N]`, by its names.

        See `Head.score_pairs`.
        """

    def learnt(self, batch: Batch) -> Learnt:
        """What it learns from: the rows of a batch with its label."""
        rows, label = batch.rows, self._label(batch.rows.labels)
        return Learnt(
            rows.query, rows.item, rows.time, rows.before, rows.requests, label, rows.weight
        )

    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """Error and regularisation of each pair, masked where there is no label."""
        batch, learnt = examples.batch, self.learnt(examples.batch)
        items = tf.gather(batch.items, learnt.item)
        told = self.told(
            of_owners(examples.query, learnt.query, learnt.weight > 0),
            tf.gather(examples.item, learnt.item),
            PairInputs(batch.query, learnt.query, items, *learnt[2:5]),
        )
        known = tf.math.is_finite(learnt.label)
        label = tf.where(known, learnt.label, 0.0)[:, tf.newaxis]
        error = row_sum(self.error(told.output, label, batch)) / self.members
        return tf.add_n([error, told.cost]), learnt.weight * tf.cast(known, tf.float32)

    def measure(
        self, held_out: HeldOut, query: np.ndarray, candidate: np.ndarray, *, full: bool
    ) -> dict[str, np.ndarray]:
        """`output`: the members' mean for each pair that it is judged by."""
        owner, item, _, time, requests = self.judged(held_out)
        output = [np.zeros(0, np.float32)]
        for part in metrics.chunks(len(item), ROWS_AT_ONCE, "rows"):
            first, end = owner[part][0], owner[part][-1] + 1
            inputs = QueryInputs(held_out.users[first:end], HistoryInputs((), ()))
            if self.before:
                inputs = held_out.inputs(slice(first, end))
            pairs = PairInputs(inputs, owner[part] - first, item[part], time[part])
            pairs = pairs._replace(requests=requests[part])
            told = self.mean_output(query[owner[part]], candidate[item[part] - 1], pairs)
            output.append(told.numpy())
        return {"output": np.concatenate(output)}

    def judged(self, held_out: HeldOut) -> Judged:
        """What it is judged by: the interactions that carry the label."""
        label = self._label(held_out.labels)
        known = np.isfinite(label)
        columns = held_out.owner, held_out.item, label, held_out.time, held_out.row
        return Judged(*(column[known] for column in columns))

    def labelled(self, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, item row and label of what it is judged by, `[N]` each."""
        return self.judged(held_out)[:3]


def sliced(
    held_out: HeldOut,
    owner: np.ndarray,
    item: np.ndarray,
    metric: str,
    model: np.ndarray,
    baseline: np.ndarray,
    mean: Callable[[np.ndarray], float],
) -> list[dict[str, Any]]:
    """Slices of what rows cost by groups of items and of users.

    Args:
        held_out: The interactions of all users.
        owner: Position in `held_out.users` of each row, `[N]`.
        item: Item row of each row, `[N]`.
        metric: Name of what `mean` makes of what rows cost.
        model: What each row costs the model, `[N]`.
        baseline: What each row costs the baseline, `[N]`.
        mean: Makes one number of a group's rows.
    """
    groups: Mapping[str, np.ndarray] = slices.user_groups(
        held_out.dataset, held_out.known, held_out.users
    )
    labels = {"items": slices.item_groups(held_out.known, held_out.dataset.num_items)[item]}
    labels |= {name: group[owner] for name, group in groups.items()}
    return [
        row
        for name, group in labels.items()
        for row in slices.by_group(name, group, metric, model, baseline, mean)
    ]
