"""What a chosen item costs among the candidates that it is told from."""

from abc import ABC, abstractmethod

import tensorflow as tf

from mtrec.data.inputs import Batch
from mtrec.distributed.strategy import all_gather, all_sum
from mtrec.distributed.traffic import Sent, gathered, summed
from mtrec.errors import UserError, require
from mtrec.heads.head import Examples
from mtrec.heads.log_sum_exp import log_sum_exp
from mtrec.heads.max_similarity import score_all, score_pairs
from mtrec.heads.row_products import dot, weighted
from mtrec.heads.score_blocks import BROUGHT, HAD, TARGET, Beside, in_blocks
from mtrec.heads.segments import of_owners


def kinds_of_rows(batch: Batch, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """What each pair of query and target is, int64 `[N]` by its first row; 0 for all other rows.

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
    """A number for each row's pair of query and target, from 0 on, int64 `[N]`."""
    pair = batch.rows.query * tf.size(batch.items, tf.int64) + batch.rows.item
    return tf.unique(pair, tf.int64).idx


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
        gramian = tf.matmul(pool, weighted(pool, weight[:, tf.newaxis]), transpose_a=True)
        gramian = gramian if local else all_sum(gramian)
        all_pairs = [dot(tf.matmul(query, gramian), query)]  # [Q]
        # What the Gramian has too much: a query's targets and what it brought, which are in the
        # pool for certain and stand for themselves alone, and what its user has, which is nothing.
        score = _scores_of_rows(query, examples.item, batch)
        kind = batch.rows.kind
        surplus = tf.exp(-batch.rows.log_q) - tf.cast(kind != HAD, score.dtype)
        surplus = tf.where(kind > 0, surplus, 0.0)
        surplus = weighted(tf.square(score), -surplus)
        all_pairs.append(tf.math.unsorted_segment_sum(surplus, batch.rows.query, num_queries))
        own_query = tf.maximum(batch.own.query, 0)
        own_score = score_pairs(
            of_owners(query, own_query, batch.own.query >= 0),
            tf.gather(examples.item, batch.own.item),
        )
        surplus = tf.exp(-batch.own.log_q) - batch.own.weight
        surplus = tf.where(batch.own.pool >= 0, surplus, 0.0)
        surplus = weighted(tf.square(own_score), -surplus)
        all_pairs.append(tf.math.unsorted_segment_sum(surplus, own_query, num_queries))
        rows = tf.math.unsorted_segment_sum(batch.rows.weight, batch.rows.query, num_queries)
        each = weighted(tf.add_n(all_pairs), tf.math.reciprocal_no_nan(rows))
        shared = tf.gather(each, batch.rows.query)
        return tf.add_n([tf.square(1.0 - score), self.all_pairs_weight * shared])


def _whole(local: bool, *values: tf.Tensor) -> list[tf.Tensor]:
    """A replica's slices, or those of all replicas."""
    return [value if local else all_gather(value) for value in values]


def _beside(batch: Batch, local: bool) -> Beside:
    context = tf.distribute.get_replica_context()
    return Beside(batch, replicas=1 if local else context.num_replicas_in_sync)


def _scores_of_rows(query: tf.Tensor, item: tf.Tensor, batch: Batch) -> tf.Tensor:
    """The score of each row's query with its target, `[N]`."""
    rows = batch.rows
    return score_pairs(of_owners(query, rows.query, rows.weight > 0), tf.gather(item, rows.item))


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
        batch, query = examples.batch, tf.convert_to_tensor(examples.query) / temperature
        pool, ids, log_q = _whole(local, examples.pool, batch.pool.items, batch.pool.log_q)
        lowest, beside = query.dtype.min, _beside(batch, local)
        bias = tf.where(ids == 0, lowest, -log_q if self.corrected else 0.0)
        kind, size = beside.kind, tf.size(ids)
        corrected = self.corrected & ((kind != TARGET) | (self.log_q_correction == "all"))
        own = tf.where(corrected, -beside.log_q, 0.0) - tf.gather(bias, beside.place)
        own = tf.where(kind == HAD, lowest, own)
        candidate, users = pool, batch.query.users
        if self.same_tower:
            queries, all_users = _whole(local, examples.query, users)
            candidate = tf.concat([pool, queries], 0)
            bias = tf.concat([bias, tf.where(all_users == 0, lowest, 0.0)], 0)

        def changed(scores: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
            pairs, (added, kinds) = beside.of(first, end, own, kind)
            scores = tf.tensor_scatter_nd_add(scores, pairs, added)
            if self.hardest is not None:
                targets = tf.boolean_mask(pairs, kinds == TARGET)
                best = _hardest(scores[:, :size], targets, self.hardest)
                scores = tf.concat([best, scores[:, size:]], 1)
            if self.same_tower:
                # Users that are trained on have a row above 0, even where their id is dropped.
                same = tf.where(all_users == users[first:end, tf.newaxis])
                same += tf.constant([0, 1], tf.int64) * tf.cast(size, tf.int64)
                out = tf.fill(tf.shape(same)[:1], lowest)
                scores = tf.tensor_scatter_nd_update(scores, same, out)
            return scores

        rows = batch.rows.query
        positive = _scores_of_rows(query, examples.item, batch)
        terms = [tf.gather(log_sum_exp(query, candidate, bias, changed), rows), -positive]
        return tf.add_n(terms + [batch.rows.log_q] * (self.log_q_correction == "all"))


def _check_hardest(hardest: int | None) -> None:
    if hardest is not None and hardest < 1:
        raise UserError(f"`hardest` must be at least 1, or null; got {hardest}.")


def _hardest(scores: tf.Tensor, targets: tf.Tensor, count: int) -> tf.Tensor:
    """The scores `[b, P]` with all but the targets `[n, 2]` and the highest others taken out."""
    lowest, of_targets = scores.dtype.min, tf.gather_nd(scores, targets)
    others = tf.tensor_scatter_nd_update(scores, targets, tf.fill(tf.shape(of_targets), lowest))
    best = tf.math.top_k(tf.stop_gradient(others), tf.minimum(count, tf.shape(scores)[1]))
    kept = tf.where(others >= best.values[:, -1:], others, lowest)
    return tf.tensor_scatter_nd_update(kept, targets, of_targets)


class _Pairwise(RetrievalLoss):
    """The mean over negatives of what it costs that a positive leads by `s_ui - s_uj`.

    Negatives are the pool but for what the query's user has.
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
        batch, query = examples.batch, tf.convert_to_tensor(examples.query) / temperature
        pool, ids, log_q = _whole(local, examples.pool, batch.pool.items, batch.pool.log_q)
        weight = tf.exp(-log_q) if self.log_q_correction else tf.ones_like(log_q)
        weight, beside = tf.where(ids == 0, 0.0, weight), _beside(batch, local)
        own = tf.exp(-beside.log_q) if self.log_q_correction else tf.ones_like(beside.log_q)
        own = tf.where(beside.kind == BROUGHT, own, 0.0)

        def cost(
            first: tf.Tensor,
            end: tf.Tensor,
            query: tf.Tensor,
            positive: tf.Tensor,
            owner: tf.Tensor,
            pool: tf.Tensor,
        ) -> tf.Tensor:
            others = score_all(query, pool)  # [b, P]
            pairs, (owns,) = beside.of(first, end, own)
            weights = tf.broadcast_to(weight, tf.shape(others))
            weights = tf.tensor_scatter_nd_update(weights, pairs, owns)
            if self.hardest is not None:
                ranked = tf.stop_gradient(tf.where(weights > 0, others, others.dtype.min))
                _, best = tf.math.top_k(ranked, tf.minimum(self.hardest, tf.shape(ranked)[1]))
                best = tf.cast(best, tf.int64)
                others, weights = (tf.gather(x, best, batch_dims=1) for x in (others, weights))
            costs = self.cost(positive[:, tf.newaxis] - tf.gather(others, owner))  # [n, P]
            total = tf.reduce_sum(tf.gather(weights, owner) * costs, axis=1)
            return tf.math.divide_no_nan(total, tf.gather(tf.reduce_sum(weights, axis=1), owner))

        rows = batch.rows.query
        score = _scores_of_rows(query, examples.item, batch)
        return in_blocks(cost, query, score, rows, [pool])


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
