"""Hard negatives out of the current index: what the model itself ranks highest and nobody took.

Approximate nearest neighbour negative contrastive estimation (Xiong et al., ICLR 2021,
arXiv:2007.00808), with an exact search in place of an approximate one.
"""

import keras
import numpy as np
import tensorflow as tf

from mtrec.data import progress
from mtrec.data.batches import Batches
from mtrec.distributed.strategy import from_workers, num_workers, worker_number
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.exact_search import exact_top_k
from mtrec.model.encode import USERS_AT_ONCE, embed_items, embed_users
from mtrec.model.recommender import Recommender


class Miner:
    """Finds the items that each training user's batch is to be told from, and hands them over.

    A search costs U x C x D products, which the workers share. Scores that are equal but for
    rounding may be ordered otherwise on another number of workers.

    Args:
        model: The model; the first of its heads that ranks and has negatives is searched with.
        batches: The batches; their negatives say how many items.
        strategy: Where the replicas are.

    Attributes:
        lists: Item rows mined for each user row, best first, `[U + 1, k]`; 0 where there are fewer,
            and before the first search. A job that goes on within an epoch needs those that the
            epoch began with: save it with the weights.

    Raises:
        UserError: If no head with negatives ranks.
    """

    def __init__(
        self, model: Recommender, batches: Batches, strategy: tf.distribute.Strategy
    ) -> None:
        self._model = model
        self._batches = batches
        self._strategy = strategy
        self._ranks, mined = _searched_with(model)
        counts = np.diff(batches.histories.offsets)
        self._users = np.flatnonzero(counts)
        shape = len(counts), mined
        with tf.device("CPU:0"):
            self.lists = keras.Variable(
                np.zeros(shape, np.int32), dtype="int32", trainable=False, name="mined"
            )

    def search(self) -> None:
        """Mines anew with the model as it is; all workers call this.

        Raises:
            PreemptedError: If the job is to stop; nothing is mined then.

        Where tables are sharded among several workers, call it within `readable`.
        """
        workers, mine = num_workers(self._strategy), worker_number(self._strategy)
        total = len(self._users)
        users = self._users[total * mine // workers : total * (mine + 1) // workers]
        with progress.stage("mining", total=total, unit="users", part=True, stoppable=True):
            found = from_workers(self._strategy, lambda: {"mined": self._best(users)})
        lists = np.zeros(self.lists.shape, np.int32)
        lists[self._users] = np.concatenate([part["mined"] for part in found])
        self.lists.assign(lists)
        self.hand_over()

    def hand_over(self) -> None:
        """Gives the batches what `lists` holds."""
        self._batches.mine(self.lists.numpy())

    def _best(self, users: np.ndarray) -> np.ndarray:
        """The best k items of each of these users, `[len(users), k]`."""
        k = self.lists.shape[1]
        head = self._model.heads[self._ranks]
        items = embed_items(self._model, self._batches.num_items)[self._ranks]
        items = np.asarray(head.embed(items))
        best = np.zeros((len(users), k), np.int32)
        for part in metrics.chunks(len(users), USERS_AT_ONCE):
            with progress.quietly():
                query = embed_users(self._model, users[part], self._batches.known)[self._ranks]
            out = [taken - 1 for taken in self._batches.not_to_mine(users[part])]
            scores, places = exact_top_k(items, np.asarray(head.embed(query)), k, exclude=out)
            best[part] = np.where(np.isfinite(scores), places + 1, 0)
        return best


def _searched_with(model: Recommender) -> tuple[str, int]:
    """The name of the head that ranks, and how many items it asks for with each query."""
    pooled = {n: h.negatives for n, h in model.heads.items() if h.negatives is not None}
    for name, negatives in pooled.items():
        if model.heads[name].ranks:
            return name, negatives.mined
    mined = max(negatives.mined for negatives in pooled.values())
    raise UserError(
        "`negatives.mined` must be 0 where no head with negatives ranks items by what it embeds; "
        f"{', '.join(pooled)} do not; got {mined}. Set it to 0, or `ranks` of a head of your own."
    )
