"""How the vectors of the items that a query chose become one vector.

The items of all queries come side by side, those of one query together and oldest first, as
`mtrec.data.histories` keeps them. Shapes: `Q` queries, `H` items in all their histories, `D` width,
`L` the longest history that a pooling looks at.
"""

from abc import ABC, abstractmethod

import keras
import tensorflow as tf

from mtrec.distributed.weights import twin, unnumbered
from mtrec.errors import UserError
from mtrec.heads.row_products import weighted
from mtrec.heads.segments import owned_sum
from mtrec.model.experts import dense


class Pooling(keras.layers.Layer, ABC):
    """What every pooling has.

    Life of a pooling: `create` its weights, then `call`. A query without items gets a learnt
    vector, as an unknown value gets a table's row 0.
    """

    def __init__(self) -> None:
        super().__init__(name=unnumbered(self))

    def create(self, *, name: str, dim: int, seed: int) -> None:
        """Makes the weights. Each depends on the seed and its own name alone.

        Args:
            name: Name that all names of weights begin with.
            dim: Width D of the vectors.
            seed: Seed of all initial weights.
        """
        self.nothing = self.add_weight(shape=(dim,), initializer="zeros", name=f"{name}_nothing")
        self.built = True

    def twin(self) -> "Pooling":
        """One like it, with weights of its own to `create`."""
        return twin(self)

    def call(
        self,
        vectors: tf.Tensor,
        owners: tf.Tensor,
        num_queries: tf.Tensor,
        hidden: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """One vector for each query, `[Q, D]`.

        Args:
            vectors: The items' vectors, `[H, D]`.
            owners: The query that each belongs to, `[H]`; -1 for padding.
            num_queries: Q, a scalar.
            hidden: Whether a query is taken to have no items, `[Q]`; null for none.
        """
        known = _count(owners, num_queries) > 0
        if hidden is not None:
            known &= ~hidden[:, tf.newaxis]
        return tf.where(known, self.pool(vectors, owners, num_queries), self.nothing.value)

    @abstractmethod
    def pool(self, vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
        """What `call` returns of queries with items; anything finite of the others."""


class Mean(Pooling):
    """The mean of a history's items."""

    def pool(self, vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
        """See `Pooling`."""
        total, count = _sum_and_count(vectors, owners, num_queries)
        return weighted(total, tf.math.reciprocal_no_nan(count))


class Sqrtn(Pooling):
    """The sum over the root of the count: the vector's length grows with the evidence."""

    def pool(self, vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
        """See `Pooling`."""
        total, count = _sum_and_count(vectors, owners, num_queries)
        return weighted(total, tf.math.reciprocal_no_nan(tf.sqrt(count)))


class Attention(Pooling):
    """Items weighed by learnt scores, whatever their order.

    An item has a score `V tanh(W x + b)` in each head, and weighs `a`, the softmax of it over the
    query's own items (Lin et al., ICLR 2017, arXiv:1703.03130, equation 6). Each head pools a part
    of the D numbers of its own. Unlike there, it returns `sum_i a_i x_i` over the root of
    `sum_i a_i^2`, so that the vector's length grows with the number of items that count: it is
    `Sqrtn` where all weigh alike, as they do at the start, since V starts from zeros.

    It costs `H * (hidden + heads + D)` numbers.

    Args:
        heads: Number of heads, a divisor of D.
        hidden: Width of `W x`.
    """

    def __init__(self, *, heads: int, hidden: int) -> None:
        super().__init__()
        _check_counts(heads=heads, hidden=hidden)
        self.heads = heads
        self.hidden = hidden

    def create(self, *, name: str, dim: int, seed: int) -> None:
        """Makes W, b and V."""
        _check_heads(self.heads, dim)
        super().create(name=name, dim=dim, seed=seed)
        self.inner = dense(self.hidden, f"{name}_inner", "tanh", "glorot_uniform", seed)
        # Without a bias: a number added to all scores changes no weight.
        self.outer = dense(self.heads, f"{name}_outer", None, "zeros", seed, use_bias=False)
        self.inner.build((None, dim))
        self.outer.build((None, self.hidden))

    def pool(self, vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
        """See `Pooling`."""
        scores = self.outer(self.inner(vectors))  # [H, heads]
        highest = tf.math.unsorted_segment_max(scores, owners, num_queries)  # [Q, heads]
        highest = tf.gather(tf.stop_gradient(highest), tf.maximum(owners, 0))
        real = owners[:, tf.newaxis] >= 0
        weights = tf.exp(tf.where(real, scores - highest, 0.0))  # 1 for the highest of a query
        parts = tf.reshape(vectors, [-1, self.heads, vectors.shape[1] // self.heads])
        weighted = tf.reshape(weights[..., tf.newaxis] * parts, tf.shape(vectors))
        total = owned_sum(weighted, owners, num_queries)  # [Q, D]
        squares = owned_sum(weights**2, owners, num_queries)  # [Q, heads]
        # At least 1, but for a query without items, whose total is 0.
        norm = tf.sqrt(tf.maximum(squares, 1.0))
        return total / tf.repeat(norm, vectors.shape[1] // self.heads, axis=1)


class Transformer(Pooling):
    """The last L items in their order, each seen in the light of the others.

    Learnt embeddings of positions, counted from the most recent item, are added to the items, and
    pre-norm blocks of attention and feed-forward change them (Xiong et al., ICML 2020,
    arXiv:2002.04745; over items as in Sun et al., CIKM 2019, arXiv:1904.06690). A query's targets
    are many, not the next item alone, so all positions are read and none is hidden from another:
    the vector is the sum of the last states over the root of their number. Positions start from
    zeros, and so do the learnt scales of what a block adds (LayerScale, Touvron et al., ICCV 2021,
    arXiv:2103.17239): the whole starts as `Sqrtn` of the last L items, whose embeddings are far
    smaller than what a block makes of normalised states.

    Histories are padded to L. A block holds about `Q * L * (2 * heads * L + 8 * D + 2 * hidden)`
    numbers for the backward pass and takes `Q * L * (2 * L * D + 4 * D^2 + 2 * D * hidden)`
    multiplications: 128 queries, L = 50, D = 64, 2 heads and 128 hidden units take 25 MB and 0.3 G.

    Args:
        length: L, the number of most recent items looked at; older ones are ignored.
        layers: Number of blocks.
        heads: Number of heads, a divisor of D.
        hidden: Width of the feed-forward layers.
    """

    def __init__(self, *, length: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        _check_counts(length=length, layers=layers, heads=heads, hidden=hidden)
        self.length = length
        self.num_blocks = layers
        self.heads = heads
        self.hidden = hidden

    def create(self, *, name: str, dim: int, seed: int) -> None:
        """Makes the positions and the blocks."""
        _check_heads(self.heads, dim)
        super().create(name=name, dim=dim, seed=seed)
        self.positions = self.add_weight(
            shape=(self.length, dim), initializer="zeros", name=f"{name}_positions"
        )
        self.blocks = [
            _Block(name=f"{name}_{k}", dim=dim, heads=self.heads, hidden=self.hidden, seed=seed)
            for k in range(self.num_blocks)
        ]

    def pool(self, vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
        """See `Pooling`."""
        items, known = latest(vectors, owners, num_queries, length=self.length)
        states = items + self.positions.value
        for block in self.blocks:
            states = block(states, known)
        total = tf.reduce_sum(tf.where(known[..., tf.newaxis], states, 0.0), axis=1)
        count = tf.reduce_sum(tf.cast(known, states.dtype), axis=1, keepdims=True)
        return weighted(total, tf.math.reciprocal_no_nan(tf.sqrt(count)))


def latest(
    vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor, *, length: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The last L items of each query, the most recent first, padded with zeros.

    Args:
        vectors: The items' vectors `[H, D]`, those of one query together and oldest first.
        owners: The query that each belongs to, `[H]`; -1 for padding.
        num_queries: Q, a scalar.
        length: L.

    Returns:
        The vectors, `[Q, L, D]`, and where there is one, `[Q, L]`.
    """
    place = tf.range(tf.size(owners, owners.dtype))
    # Of whole numbers, GPUs find no maxima of segments.
    last = tf.math.unsorted_segment_max(tf.cast(place, tf.float64), owners, num_queries)
    last = tf.cast(last, place.dtype)
    age = tf.gather(last, tf.maximum(owners, 0)) - place
    kept = tf.where((owners >= 0) & (age < length))[:, 0]
    cells = tf.stack([tf.gather(owners, kept), tf.gather(age, kept)], axis=1)
    shape = [num_queries, length, vectors.shape[1]]
    known = _count(owners, num_queries) > tf.range(length, dtype=tf.float32)
    return tf.scatter_nd(cells, tf.gather(vectors, kept), shape), known


class _Block(keras.layers.Layer):
    """Attention of a query's items to each other, then a feed-forward layer, each added."""

    def __init__(self, *, name: str, dim: int, heads: int, hidden: int, seed: int) -> None:
        super().__init__(name=name)
        self.heads = heads

        def layer(part: str, width: int, units: int, initializer: str) -> keras.layers.Dense:
            activation = "relu" if part == "up" else None
            # A bias of the keys would change nothing, that of the values is the output's.
            bias = part in ("up", "down", "output")
            made = dense(units, f"{name}_{part}", activation, initializer, seed, use_bias=bias)
            made.build((None, None, width))
            return made

        self.queries = layer("queries", dim, dim, "glorot_uniform")
        self.keys = layer("keys", dim, dim, "glorot_uniform")
        self.values = layer("values", dim, dim, "glorot_uniform")
        self.output_layer = layer("output", dim, dim, "glorot_uniform")
        self.up = layer("up", dim, hidden, "glorot_uniform")
        self.down = layer("down", hidden, dim, "glorot_uniform")
        self.norms = [
            keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_{part}")
            for part in ("attention", "feed_forward")
        ]
        for norm in self.norms:
            norm.build((None, None, dim))
        self.scales = self.add_weight(shape=(2, dim), initializer="zeros", name="scales")
        self.built = True

    def call(self, states: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """States `[Q, L, D]`, of which only those `known [Q, L]` are looked at."""
        attention, feed_forward = tf.unstack(self.scales.value)
        states += attention * self._attended(self.norms[0](states), known)
        return states + feed_forward * self.down(self.up(self.norms[1](states)))

    def _attended(self, states: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        queries, keys, values = (
            self._by_head(layer(states)) for layer in (self.queries, self.keys, self.values)
        )
        scores = tf.einsum("qihd,qjhd->qhij", queries, keys) / queries.shape[-1] ** 0.5
        # Not -inf: a query without items would divide 0 by 0.
        scores = tf.where(known[:, tf.newaxis, tf.newaxis], scores, scores.dtype.min)
        mixed = tf.einsum("qhij,qjhd->qihd", tf.nn.softmax(scores), values)
        return self.output_layer(tf.reshape(mixed, tf.shape(states)))

    def _by_head(self, states: tf.Tensor) -> tf.Tensor:
        """`[Q, L, D] -> [Q, L, heads, D / heads]`."""
        length, dim = states.shape[1:]
        return tf.reshape(states, [-1, length, self.heads, dim // self.heads])


def _sum_and_count(
    vectors: tf.Tensor, owners: tf.Tensor, num_queries: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each query's sum `[Q, D]` and number `[Q, 1]` of items."""
    total = owned_sum(vectors, owners, num_queries)
    return total, _count(owners, num_queries)


def _count(owners: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Each query's number of items, `[Q, 1]`."""
    ones = tf.ones_like(owners, dtype=tf.float32)
    return tf.math.unsorted_segment_sum(ones, owners, num_queries)[:, tf.newaxis]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"`{name}` must be at least 1; got {count}.")


def _check_heads(heads: int, dim: int) -> None:
    if dim % heads:
        raise UserError(
            f"`pooling.heads` must divide the width of the tower ({dim}); got {heads}. "
            "Set `pooling.heads`=1."
        )
