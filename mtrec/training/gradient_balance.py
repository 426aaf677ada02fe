"""Balance from gradients: one step out of the gradients of several tasks.

Every method here ends in a weighted sum of the tasks' gradients `sum_t c_t g_t`, and its factors c
depend on the gradients through their inner products alone. `gram_matrix` computes those on the
gradients of the global batch; a method then solves a problem of T numbers, the same on every
replica. g_t is taken over all parameters that two or more tasks share, as one vector. What a task
has to itself moves by its own gradient, at its configured weight.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from mtrec.distributed.strategy import all_gather, all_sum
from mtrec.errors import UserError, require
from mtrec.training.balance import TINY, Balancer, Choice, Present

# What TensorFlow gives for a variable: a tensor, rows of a table, or None where no path leads.
Gradient: TypeAlias = Any


def gram_matrix(tasks: Sequence[Sequence[Gradient]], sharded: Sequence[bool]) -> tf.Tensor:
    """Inner products `[T, T]` of the tasks' gradients over the global batch.

    Tables stay sparse: for each, the union of the rows that tasks and replicas touched is summed by
    row. Memory is O(touched rows), whatever the table's size.

    Args:
        tasks: For each task, this replica's share of its gradients, in the order of variables; None
            where the task does not reach a variable.
        sharded: Whether a replica has all of the batch's gradient of a variable, but of its own
            rows alone.
    """
    of_shards = tf.zeros([len(tasks), len(tasks)])
    gram = tf.zeros([len(tasks), len(tasks)])
    dense = []
    for apart, *gradients in zip(sharded, *tasks, strict=True):
        present = [g for g in gradients if g is not None]
        if len(present) < min(2, len(tasks)):
            continue
        if apart:
            of_shards += _of_rows(gradients, lambda mine: mine)
        elif isinstance(present[0], tf.IndexedSlices):
            gram += _of_rows(gradients, all_gather)
        else:
            zeros = tf.zeros_like(present[0])
            filled = [zeros if g is None else g for g in gradients]
            dense.append(tf.reshape(tf.stack(filled), [len(tasks), -1]))
    if dense:
        summed = all_sum(tf.concat(dense, axis=1))  # [T, parameters], in one message
        gram += tf.matmul(summed, summed, transpose_b=True)
    return gram + all_sum(of_shards) if any(sharded) else gram


def _of_rows(gradients: Sequence[Gradient], gather: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    present = [g for g in gradients if g is not None]
    indices = [gather(g.indices) for g in present]
    rows, position = tf.unique(tf.concat(indices, axis=0), tf.int64)
    # GPUs have no operation that splits whole numbers.
    ends = tf.cumsum(tf.stack([tf.size(i) for i in indices]))
    parts = iter(
        position[end - tf.size(i) : end] for i, end in zip(indices, tf.unstack(ends), strict=True)
    )
    width = present[0].values.shape[1]
    sums = [
        tf.zeros([tf.size(rows), width])
        if g is None
        else tf.math.unsorted_segment_sum(gather(g.values), next(parts), tf.size(rows))
        for g in gradients
    ]
    flat = tf.reshape(tf.stack(sums), [len(gradients), -1])
    return tf.matmul(flat, flat, transpose_b=True)


def weighted_sum(gradients: Sequence[Gradient], factors: tf.Tensor) -> Gradient:
    """`sum_t c_t g_t` of one variable, sparse where the gradients are.

    A variable that one task has to itself gets its gradient as it is.
    """
    weighted = [
        (g, factor)
        for g, factor in zip(gradients, tf.unstack(factors), strict=True)
        if g is not None
    ]
    if len(weighted) < 2:
        return weighted[0][0] if weighted else None
    if isinstance(weighted[0][0], tf.IndexedSlices):
        return tf.IndexedSlices(
            values=tf.concat([factor * g.values for g, factor in weighted], axis=0),
            indices=tf.concat([g.indices for g, _ in weighted], axis=0),
            dense_shape=weighted[0][0].dense_shape,
        )
    return tf.add_n([factor * g for g, factor in weighted])


class PCGrad(Balancer):
    """Each gradient loses its component against any other that it conflicts with; then their sum.

    Yu et al., NeurIPS 2020 (arXiv:2001.06782), algorithm 1. The order in which a task meets the
    others is random, a function of seed and step; with two tasks there is none.
    """

    of_gradients = True

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        count, gram = tasks.count, tasks.gram
        total = tf.zeros(count)
        for task in range(count):
            own = tf.one_hot(task, count)  # the projected gradient as a sum of gradients
            seed = tf.stack(
                [tf.constant(self.seed + task, tf.int64), tf.cast(tasks.step, tf.int64)]
            )
            order = tf.argsort(tf.random.stateless_uniform([count], seed))
            for place in range(count):
                other = order[place]
                inner = tf.tensordot(own, gram[:, other], 1)
                conflict = tf.minimum(inner, 0.0) / gram[other, other]
                own -= tf.where(other == task, 0.0, conflict) * tf.one_hot(other, count)
            total += own
        return total, {}


class CAGrad(Balancer):
    """The step near the mean gradient whose worst task improves most.

    Liu et al., NeurIPS 2021 (arXiv:2110.14048): `g_0 + (c |g_0| / |g_w|) g_w`, with g_0 the mean
    gradient and the w of the simplex that minimises `<g_w, g_0> + c |g_0| |g_w|`. Times T here,
    so that `radius=0` is the plain sum.

    Args:
        radius: c, how far the step may be from the mean, in units of its length; in [0, 1).
    """

    of_gradients = True
    SWEEPS = 8

    def __init__(self, *, radius: float) -> None:
        super().__init__()
        require("`radius`", radius, least=0, below=1)
        self.radius = radius

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        count, gram = tasks.count, tf.cast(tasks.gram, tf.float64)
        gram /= tf.reduce_max(tf.linalg.diag_part(gram))  # factors do not depend on the unit
        mean = tf.fill([count], tf.constant(1.0 / count, tf.float64))
        reach = self.radius * tf.sqrt(_quadratic(gram, mean))
        shares = mean
        pairs = [(i, j) for i in range(count) for j in range(i)]
        # A pair at a time, exactly: with two tasks, once is enough.
        rounds = len(pairs) * (self.SWEEPS if count > 2 else 1)

        def next_pair(done: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pair = tf.constant(pairs, tf.int64)[done % len(pairs)]
            return done + 1, _best_of_pair(gram, mean, reach, shares, pair)

        if pairs:
            _, shares = tf.while_loop(lambda done, _: done < rounds, next_pair, (0, shares))
        length = tf.sqrt(tf.maximum(_quadratic(gram, shares), TINY))
        return count * tf.cast(mean + reach / length * shares, tf.float32), {}


def _quadratic(gram: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Squared length of `sum_t s_t g_t`, for shares `[..., T]`."""
    return tf.maximum(tf.reduce_sum(tf.linalg.matvec(gram, shares) * shares, axis=-1), 0.0)


def _best_of_pair(
    gram: tf.Tensor, mean: tf.Tensor, reach: tf.Tensor, shares: tf.Tensor, pair: tf.Tensor
) -> tf.Tensor:
    """Divides what a pair `[2]` has between it so that CAGrad's convex objective is least.

    Where the first of the two gets x, the objective is `a x + r sqrt(q + 2 h x + d x^2)` and a
    constant. Its slope rises with x, and is 0 where `y = h + d x` is
    `-a sqrt((q - h^2 / d) / (r^2 - a^2 / d))`; where it has no 0, the least is at an end.
    """
    first, second = tf.unstack(tf.one_hot(pair, mean.shape[0], dtype=tf.float64))
    direction, own = first - second, tf.reduce_sum(first * shares)
    start, both = shares - own * direction, tf.reduce_sum((first + second) * shares)
    row = tf.linalg.matvec(gram, direction)
    a, h, d = (tf.reduce_sum(row * each) for each in (mean, start, direction))
    least = tf.maximum(_quadratic(gram, start) - tf.math.divide_no_nan(h * h, d), 0.0)
    steep = reach * reach - tf.math.divide_no_nan(a * a, d)
    y = -a * tf.sqrt(tf.math.divide_no_nan(least, tf.maximum(steep, 0.0)))
    end = tf.where(a > 0, tf.zeros_like(both), both)
    x = tf.where(steep > 0, tf.math.divide_no_nan(y - h, d), end)
    return start + tf.clip_by_value(x, 0.0, both) * direction


class ImtlG(Balancer):
    """The sum of gradients with the same projection on each of them; its factors sum to 1.

    Liu et al., ICLR 2021 (IMTL-G). With `b_t = c_t |g_t|` the projections on unit gradients are
    `C b`, C being their cosines; all are equal where `C b` is constant. With two tasks c is the
    inverse of the gradients' lengths. Times T here, as the plain sum has factors of 1.

    With three tasks or more, of which one has a much shorter gradient than the others, that sum may
    project on all gradients with a negative sign, and would make every loss rise, or be longer the
    nearer it is to that. Where the sizes of the factors sum to more than `MOST` T, the inverse
    lengths are taken there too.
    """

    of_gradients = True
    MOST = 10.0

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        gram = tf.cast(tasks.gram, tf.float64)
        inverse = tf.math.rsqrt(tf.linalg.diag_part(gram))
        cosines = gram * inverse[:, tf.newaxis] * inverse
        # Equal or opposed gradients leave C without an inverse; the limit is what this gives.
        ridge = 1e-8 * tf.eye(tasks.count, dtype=tf.float64)
        ones = tf.ones([tasks.count, 1], tf.float64)
        found = tf.linalg.solve(cosines + ridge, ones)[:, 0] * inverse
        fair = self.MOST * tf.reduce_sum(found) >= tf.reduce_sum(tf.abs(found))
        found = tf.where(fair, found, inverse)
        return tasks.count * tf.cast(found / tf.reduce_sum(found), tf.float32), {}


class GradNorm(Balancer):
    """Learnt factors under which gradients are long where a task has fallen little.

    Chen et al., ICML 2018 (arXiv:1711.02257): the factor of a task moves against the sign of
    `c_t |g_t| - mean_s(c_s |g_s|) r_t^alpha`, with r_t the loss over that of the task's first step,
    relative to the mean of all tasks; then factors are scaled to sum to T. They move by
    `rate |g_t| / mean_s |g_s|`, so that a rate means the same whatever the scale of losses, and
    keep above 0.01. The shared parameters are all of those that tasks share, not the last layer.

    Args:
        alpha: 0 makes the gradients equally long; the larger, the more the slow tasks get.
        rate: Learning rate of the factors.
    """

    of_gradients = True
    LEAST = 0.01

    def __init__(self, *, alpha: float, rate: float) -> None:
        super().__init__()
        require("`alpha`", alpha, least=0)
        require("`rate`", rate, above=0)
        self.alpha = alpha
        self.rate = rate

    def create(self) -> None:
        """Makes the factors and the first loss of each task; 0 where there is none yet."""
        self.state("factors", 1.0)
        self.state("first", 0.0)

    def choose(self, tasks: Present) -> Choice:
        """See the class; these are the factors after they moved."""
        first = tf.where(tasks.state["first"] > 0, tasks.state["first"], tasks.losses)
        # What these tasks have together stays theirs, whoever else is absent.
        together = tf.reduce_sum(tasks.state["factors"]) / tasks.count
        factors = tasks.state["factors"] / together
        lengths = tf.sqrt(tf.linalg.diag_part(tasks.gram))
        fell = tasks.losses / tf.maximum(first, TINY)
        pace = fell / tf.maximum(tf.reduce_mean(fell), TINY)
        weighted = factors * lengths
        over = weighted - tf.reduce_mean(weighted) * pace**self.alpha
        move = tf.sign(over) * lengths / tf.reduce_mean(lengths)
        moved = tf.maximum(factors - self.rate * move, self.LEAST)
        moved *= tasks.count / tf.reduce_sum(moved)
        return moved, {"factors": together * moved, "first": first}


class MetaBalance(Balancer):
    """Auxiliary gradients are brought near the length of the main task's.

    He et al., WWW 2022 (arXiv:2203.06801): `c_t = relax m_main / m_t + 1 - relax`, with m_t the
    moving average of |g_t|; the main task keeps 1. Lengths are over all shared parameters at once,
    not layer by layer. Where the main task is absent its last average counts, and all factors are 1
    until it has one.

    Args:
        main: The main task.
        relax: 0 leaves the gradients alone, 1 makes them as long as the main one.
        decay: Decay of the moving averages, which start at the first lengths.
    """

    of_gradients = True

    def __init__(self, *, main: str, relax: float, decay: float) -> None:
        super().__init__()
        self.main = main
        require("`relax`", relax, least=0, most=1)
        require("`decay`", decay, least=0, below=1)
        self.relax = relax
        self.decay = decay

    def create(self) -> None:
        """Makes the moving averages, and the main task's once more for steps without it.

        Raises:
            UserError: If the main task is none of the tasks.
        """
        if self.main not in self.tasks:
            raise UserError(f"`main` must be one of {', '.join(self.tasks)}; got {self.main}.")
        self.state("lengths", 0.0)
        self.state("main", 0.0, shared=True)

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        now = tf.sqrt(tf.linalg.diag_part(tasks.gram))
        before = tf.where(tasks.state["lengths"] > 0, tasks.state["lengths"], now)
        lengths = self.decay * before + (1.0 - self.decay) * now
        is_main = tf.equal(tasks.places, self.tasks.index(self.main))
        main = tf.reduce_sum(tf.where(is_main, lengths, 0.0))
        main = tf.where(tf.reduce_any(is_main), main, tasks.state["main"])
        factors = self.relax * main / lengths + 1.0 - self.relax
        factors = tf.where(main > 0, factors, tf.ones_like(factors))
        return factors, {"lengths": lengths, "main": main}
