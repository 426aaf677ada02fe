"""What a chosen item costs among the candidates that it is told from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import tensorflow as tf

from mtrec.data.inputs import Batch
from mtrec.distributed.strategy import all_gather, all_sum
from mtrec.distributed.traffic import Sent, gathered, summed
from mtrec.errors import UserError, require
from mtrec.heads.head import Examples
from mtrec.heads.max_similarity import score_all, score_pairs

# What a pair of query and pool item is, beside one that is there by chance: what the query asks
# for, what the user has besides or says nothing of, what came with the query to be told from.
TARGET, HAD, BROUGHT = 1, 2, 3


def kinds_of_rows(batch: Batch, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """What each pair of query and target is, int32 `[N]` by its first row; 0 for all other rows.

    Of several rows with one pair, one that is positive makes it a target. A pair without any is
    told from targets if a row is negative, unless the user has the item by another interaction.

    Args:
        batch: The batch.
        positive: Whether a row is positive, `[N]`.
        negative: Whether the item of a row was shown in vain, `[N]`.
    """
    pair = _pairs(batch)

    def any_of_pair(rows: tf.Tensor) -> tf.Tensor:
        return _sum_of_pair(tf.cast(rows, tf.float32), pair) > 0

    told_from = any_of_pair(negative & (batch.rows.had == 0))
    kind = tf.where(any_of_pair(positive), TARGET, tf.where(told_from, BROUGHT, HAD))
    return tf.where(batch.rows.kind > 0, kind, 0)


def once_a_pair(batch: Batch, weight: tf.Tensor) -> tf.Tensor:
    """The weights of rows, each over the number of those of its query and target, `[N]`.

    Args:
        batch: The batch.
        weight: 0 for a row that does not count, `[N]`.
    """
    counted = _sum_of_pair(tf.cast(weight > 0, weight.dtype), _pairs(batch))
    return tf.math.divide_no_nan(weight, counted)


def _pairs(batch: Batch) -> tf.Tensor:
    """A number for each row's pair of query and target, from 0 on, int32 `[N]`."""
    item = tf.cast(batch.rows.item, tf.int64)
    pair = tf.cast(batch.rows.query, tf.int64) * tf.cast(tf.size(batch.items), tf.int64) + item
    return tf.unique(pair).idx


def _sum_of_pair(values: tf.Tensor, pair: tf.Tensor) -> tf.Tensor:
    """For each row the sum over the rows of its pair, `[N]`."""
    return tf.gather(tf.math.unsorted_segment_sum(values, pair, tf.size(pair)), pair)


class RetrievalLoss(ABC):
    """What a row costs, given its score and the candidate pool.

    Attributes:
        corrected: Whether log Q has a part in it.
    """

    corrected = True

    # Whether it needs scores to be linear in the query, as only those of one vector are.
    one_vector = False

    @abstractmethod
    def __call__(self, examples: Examples, temperature: float, *, local: bool) -> tf.Tensor:
        """Loss of every row, `[N]`; scores are `<query, candidate> / temperature`.

        Of a query with several vectors, the score is the highest of theirs.

        Args:
            examples: The rows, and this replica's slice of the pool. The `kind` of the rows is
                that of `kinds_of_rows`, where a label says what is positive.
            temperature: See above.
            local: Whether the slice is the whole pool.
        """

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """What one replica sends unless the pool is local: its slice, for a loss that reads all.

        With each candidate go its gradient, its item row and log Q. See `Head.sends`.
        """
        pool = len(batch.pool.items)
        size = gathered(pool * (3 * width + 2), replicas)
        return [Sent(size, f"{pool:,} candidates gathered by all and their gradients")]


class ImplicitSquared(RetrievalLoss):
    """Squared error on positives plus a small weight on all pairs of query and candidate.

    `(1 - s_ui)^2 + w * sum_j s_uj^2`, the sum over the catalogue less what the user has and the
    query does not ask for (Hu, Koren, Volinsky 2008). A query's sum is shared out over its rows. It
    is computed as `u^T G u` with the Gramian `G = sum_j v_j v_j^T`, so that B queries and C
    candidates cost O((B + C) D^2) and no B x C matrix exists (Krichene et al. 2019,
    arXiv:1807.07187). Replicas exchange D x D numbers.

    Args:
        all_pairs_weight: The weight w, relative to a positive's.

    Raises:
        UserError: If the weight is below 0.
    """

    one_vector = True

    def __init__(self, *, all_pairs_weight: float) -> None:
        require("`all_pairs_weight`", all_pairs_weight, least=0)
        self.all_pairs_weight = all_pairs_weight

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """The Gramian and its gradient."""
        size = summed(2 * width**2, replicas)
        what = f"the {width} x {width} Gramian and its gradient, whatever the batch"
        return [Sent(size, what)]

    def __call__(self, examples: Examples, temperature: float, *, local: bool) -> tf.Tensor:
        """See the class."""
        batch = examples.batch
        query, pool = examples.query / temperature, examples.pool
        num_queries = tf.shape(query)[0]
        # A pool that is a sample stands for the catalogue: weight by 1 / P(in the pool).
        weight = tf.where(batch.pool.items > 0, tf.exp(-batch.pool.log_q), 0.0)
        gramian = tf.matmul(pool, pool * weight[:, tf.newaxis], transpose_a=True)
        gramian = gramian if local else all_sum(gramian)
        all_pairs = tf.reduce_sum(tf.matmul(query, gramian) * query, axis=-1)  # [Q]
        # What the Gramian has too much: a query's targets and what it brought, which are in the
        # pool for certain and stand for themselves alone, and what its user has, which is nothing.
        score = _dots(query, examples.item, batch.rows.query, batch.rows.item)
        kind = batch.rows.kind
        surplus = tf.exp(-batch.rows.log_q) - tf.cast(kind != HAD, score.dtype)
        surplus = tf.where(kind > 0, surplus, 0.0)
        all_pairs -= tf.math.unsorted_segment_sum(
            surplus * tf.square(score), batch.rows.query, num_queries
        )
        own_query = tf.maximum(batch.own.query, 0)
        own_score = _dots(query, examples.item, own_query, batch.own.item)
        surplus = tf.exp(-batch.own.log_q) - batch.own.weight
        surplus = tf.where(batch.own.pool >= 0, surplus, 0.0)
        all_pairs -= tf.math.unsorted_segment_sum(
            surplus * tf.square(own_score), own_query, num_queries
        )
        rows = tf.math.unsorted_segment_sum(batch.rows.weight, batch.rows.query, num_queries)
        all_pairs = tf.math.divide_no_nan(all_pairs, rows)
        shared = tf.gather(all_pairs, batch.rows.query)
        return tf.square(1.0 - score) + self.all_pairs_weight * shared


@dataclass(frozen=True)
class _Scored:
    """Scores of a replica's queries with the whole pool, and of its rows.

    Attributes:
        pool: `[Q, P]`, the lowest number for padding and for items that the user has, unless they
            are targets.
        log_q: Log Q of the pool's items beside each query, `[Q, P]`.
        targets: Whether an item is a target of the query, `[Q, P]`.
        positive: `[N]`.
    """

    pool: tf.Tensor
    log_q: tf.Tensor
    targets: tf.Tensor
    positive: tf.Tensor

    @classmethod
    def of(cls, examples: Examples, temperature: float, local: bool) -> "_Scored":
        batch = examples.batch
        query = examples.query / temperature
        pool, ids, log_q = (
            value if local else all_gather(value)
            for value in (examples.pool, batch.pool.items, batch.pool.log_q)
        )
        scores = score_all(query, pool)  # [Q, P]
        kinds, log_q = _beside(batch, local, log_q, tf.shape(scores))
        return cls(
            pool=tf.where((kinds == HAD) | (ids == 0), scores.dtype.min, scores),
            log_q=log_q,
            targets=kinds == TARGET,
            positive=_dots(query, examples.item, batch.rows.query, batch.rows.item),
        )


def _beside(
    batch: Batch, local: bool, log_q: tf.Tensor, shape: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What each pair of query and pool item is, and its log Q, `[Q, P]`, given the pool's, `[P]`.

    The kind is uint8, one of those above, or 0.
    """
    replicas = 1 if local else tf.distribute.get_replica_context().num_replicas_in_sync
    owner = tf.concat([batch.rows.query, batch.own.query], axis=0)
    place = tf.concat([batch.rows.pool, batch.own.pool], axis=0)
    weight = batch.own.weight
    kind = tf.concat([batch.rows.kind, tf.where(weight > 0, BROUGHT, HAD)], axis=0)
    own = tf.where(weight > 0, -tf.math.log(tf.maximum(weight, 1.0)), 0.0)
    of_rows = tf.where(batch.rows.kind == BROUGHT, 0.0, batch.rows.log_q)
    own_log_q = tf.concat([of_rows, own], axis=0)
    # Replica r embeds the pool's items r, r + R, ...; gathering puts them behind others'.
    gathered = place % replicas * tf.shape(batch.pool.items)[0] + place // replicas
    known = (place >= 0) & (kind > 0)
    pairs = tf.boolean_mask(tf.stack([owner, gathered], axis=1), known)
    # TensorFlow scatters int32 on the host, which takes most of a step on a GPU.
    kinds = tf.scatter_nd(pairs, tf.cast(tf.boolean_mask(kind, known), tf.uint8), shape)
    everywhere = tf.broadcast_to(log_q, shape)
    own_log_q = tf.boolean_mask(own_log_q, known)
    return kinds, tf.tensor_scatter_nd_update(everywhere, pairs, own_log_q)


def _same_tower(examples: Examples, temperature: float, local: bool) -> tf.Tensor:
    """Scores of a replica's queries with all queries, `[Q, G]`.

    The lowest number for padding and for queries of the same user, the query itself among them.
    """
    own = examples.batch.query.users
    queries, users = (value if local else all_gather(value) for value in (examples.query, own))
    scores = tf.matmul(examples.query / temperature, queries, transpose_b=True)
    # Users that are trained on have a row above 0, even where their id is dropped.
    out = (users == own[:, tf.newaxis]) | (users == 0)
    return tf.where(out, scores.dtype.min, scores)


def _dots(query: tf.Tensor, item: tf.Tensor, owners: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    return score_pairs(tf.gather(query, owners), tf.gather(item, items))


class Softmax(RetrievalLoss):
    """Cross-entropy of the positive against the candidate pool.

    In this order: scores over the temperature, minus log Q where the pool is a sample, items that
    the user has masked, then the softmax. The pool holds each item once, the positive included, so
    that no accidental hit can occur beside it.

    Args:
        log_q_correction: Whose scores lose the log of their probability of being in the pool, which
            undoes the over-sampling of popular items (that of what was given or mined for the query
            itself is 1): `all` (Yi et al., RecSys 2019); `negatives`,
            since a query's own targets are in its pool for certain, which weighs a row by the
            probability of getting it wrong (Khrylchenko et al., RecSys 2025, arXiv:2507.09331);
            null for none.
        hardest: Items that count as negatives, those with the highest scores; null for all.
        same_tower: Whether the queries of other users in the batch are negatives too, by the score
            of query with query (SamToNe: Moiseev et al., Findings of ACL 2023, arXiv:2306.02516).
            They have no log Q, and all of them count whatever `hardest` is.

    Raises:
        UserError: If an argument is none of these.
    """

    def __init__(
        self, *, log_q_correction: str | None, hardest: int | None, same_tower: bool
    ) -> None:
        if log_q_correction not in ("all", "negatives", None):
            raise UserError(
                f"`log_q_correction` must be all, negatives or null; got {log_q_correction}."
            )
        _check_hardest(hardest)
        self.log_q_correction = log_q_correction
        self.corrected = log_q_correction is not None
        self.hardest = hardest
        self.same_tower = same_tower
        self.one_vector = same_tower

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """The pool, and where queries are negatives too, those, with their gradients and users."""
        sent = super().sends(batch, width=width, replicas=replicas)
        if self.same_tower:
            own = len(batch.query.users)
            size = gathered(own * (3 * width + 1), replicas)
            sent.append(Sent(size, f"{own:,} queries gathered by all and their gradients"))
        return sent

    def __call__(self, examples: Examples, temperature: float, *, local: bool) -> tf.Tensor:
        """See the class."""
        batch = examples.batch
        scored = _Scored.of(examples, temperature, local)
        scores, score = scored.pool, scored.positive
        if self.log_q_correction == "all":
            scores -= scored.log_q
            score -= batch.rows.log_q
        elif self.log_q_correction == "negatives":
            scores = tf.where(scored.targets, scores, scores - scored.log_q)
        if self.hardest is not None:
            scores = _hardest(scores, scored.targets, self.hardest)
        if self.same_tower:
            scores = tf.concat([scores, _same_tower(examples, temperature, local)], axis=1)
        return tf.gather(tf.reduce_logsumexp(scores, axis=1), batch.rows.query) - score


def _check_hardest(hardest: int | None) -> None:
    if hardest is not None and hardest < 1:
        raise UserError(f"`hardest` must be at least 1, or null; got {hardest}.")


def _hardest(scores: tf.Tensor, targets: tf.Tensor, count: int) -> tf.Tensor:
    """The scores `[Q, P]` with all but the targets and the highest `count` others taken out."""
    others = tf.where(targets, scores.dtype.min, scores)
    best = tf.math.top_k(tf.stop_gradient(others), tf.minimum(count, tf.shape(scores)[1]))
    return tf.where(targets | (others >= best.values[:, -1:]), scores, scores.dtype.min)


class _Pairwise(RetrievalLoss):
    """The mean over negatives of what it costs that a positive leads by `s_ui - s_uj`.

    Negatives are the pool but for what the query's user has. Rows times negatives are held in
    memory.

    Args:
        log_q_correction: Whether a negative weighs one over its probability of being in the pool,
            which is 1 for what was given or mined for the query itself.
        hardest: Negatives that count, those with the highest scores; null for all.

    Raises:
        UserError: If `hardest` is below 1.
    """

    def __init__(self, *, log_q_correction: bool, hardest: int | None) -> None:
        _check_hardest(hardest)
        self.log_q_correction = log_q_correction
        self.corrected = log_q_correction
        self.hardest = hardest

    @abstractmethod
    def cost(self, lead: tf.Tensor) -> tf.Tensor:
        """What a lead costs, number by number."""

    def __call__(self, examples: Examples, temperature: float, *, local: bool) -> tf.Tensor:
        """See the class."""
        scored = _Scored.of(examples, temperature, local)
        lowest = scored.pool.dtype.min
        others = tf.where(scored.targets, lowest, scored.pool)
        weights = tf.exp(-scored.log_q) if self.log_q_correction else tf.ones_like(scored.log_q)
        weights = tf.where(others > lowest, weights, 0.0)  # [Q, P]
        others = tf.where(others > lowest, others, 0.0)
        if self.hardest is not None:
            ranked = tf.stop_gradient(tf.where(weights > 0, others, lowest))
            _, best = tf.math.top_k(ranked, tf.minimum(self.hardest, tf.shape(ranked)[1]))
            others, weights = (tf.gather(x, best, batch_dims=1) for x in (others, weights))
        rows = examples.batch.rows.query
        costs = self.cost(scored.positive[:, tf.newaxis] - tf.gather(others, rows))  # [N, P]
        total = tf.reduce_sum(tf.gather(weights, rows) * costs, axis=1)
        return tf.math.divide_no_nan(total, tf.gather(tf.reduce_sum(weights, axis=1), rows))


class Bpr(_Pairwise):
    """Bayesian personalised ranking: `-log sigmoid(s_ui - s_uj)` (Rendle et al., UAI 2009)."""

    def cost(self, lead: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return tf.math.softplus(-lead)


class Hinge(_Pairwise):
    """`max(0, margin - (s_ui - s_uj))`.

    Args:
        margin: The lead that costs nothing.
        log_q_correction: As for `Bpr`.
        hardest: As for `Bpr`.

    Raises:
        UserError: If the margin is not above 0, or `hardest` is below 1.
    """

    def __init__(self, *, margin: float, log_q_correction: bool, hardest: int | None) -> None:
        super().__init__(log_q_correction=log_q_correction, hardest=hardest)
        require("`margin`", margin, above=0)
        self.margin = margin

    def cost(self, lead: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return tf.nn.relu(self.margin - lead)
