"""Self-supervision: what some features show of an item is to tell it by what the others show."""

import numpy as np
import tensorflow as tf

from mtrec.data.dataset import Dataset
from mtrec.data.inputs import Batch
from mtrec.distributed.strategy import all_gather
from mtrec.distributed.traffic import Sent, gathered
from mtrec.errors import UserError, require
from mtrec.heads.head import Examples, Head
from mtrec.heads.row_products import unit


class Contrastive(Head):
    """InfoNCE between two views of items, over features masked together (Yao et al., CIKM 2021).

    Item i costs `-log exp(s(z_i, z'_i) / t) / sum_j exp(s(z_i, z'_j) / t)` (arXiv:2007.12865,
    equation 1), s the cosine and j all items drawn for the step, on all replicas. z is this head's
    candidate representation with half of its features served as unknown, z' that with the other
    half; `mtrec.model.views` chooses them. Those features are the tower's shared ones and the
    head's own.

    Items are drawn evenly from the catalogue, not taken from the batch, so that those which few
    users choose are seen as often as others (section 3.4). V of them cost `V^2` scores.

    Args:
        dim: Width of its representations; null for the towers' shared output.
        temperature: The temperature t.
        items: Items drawn in each step; all items if there are fewer.

    Raises:
        UserError: If the temperature is not above 0, or fewer than 2 items are asked for.
    """

    def __init__(self, *, dim: int | None, temperature: float, items: int) -> None:
        super().__init__(dim=dim)
        require("`temperature`", temperature, above=0)
        if items < 2:
            raise UserError(f"`items` must be at least 2; got {items}.")
        self.temperature = temperature
        self.views = items

    def adapt(self, dataset: Dataset, fit: np.ndarray, *, name: str, seed: int) -> None:
        """Nothing to make: the candidate tower holds all weights."""

    def sends(self, batch: Batch, *, width: int, replicas: int) -> list[Sent]:
        """One view of each drawn item, its gradient, and the item."""
        count = len(batch.views.items)
        size = gathered(count * (3 * width + 1), replicas)
        return [Sent(size, f"{count:,} views gathered by all and their gradients")]

    def losses(self, examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each drawn item, `[V]`; all count alike."""
        item = examples.batch.views.items
        one, other = (unit(view) for view in examples.views)
        scores = tf.matmul(one / self.temperature, all_gather(other), transpose_b=True)
        scores = tf.where(all_gather(item) > 0, scores, scores.dtype.min)  # [V, R * V]
        own = tf.reduce_sum(one * other, axis=-1) / self.temperature
        return tf.reduce_logsumexp(scores, axis=-1) - own, tf.cast(item > 0, tf.float32)
