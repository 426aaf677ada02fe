"""The model of mtrec's own contestants."""

from typing import Any

import numpy as np
import tensorflow as tf

import mtrec
from mtrec.benchmark import arrays
from mtrec.benchmark.contestants.rounds import DIM
from mtrec.data.dataset import Dataset


def model_of(
    dataset: Dataset, tables: tuple[np.ndarray, np.ndarray], *, joint: bool, seed: int
) -> Any:
    """Two tables that all heads share; a rating's factors are projected from them.

    Args:
        dataset: Users and items, and the interactions to train on.
        tables: Vectors of users and of items at the start, `[rows + 1, D]` each.
        joint: Whether ratings are learnt too.
        seed: Seed of all other weights.
    """
    loss = mtrec.Softmax(log_q_correction="all", hardest=None, same_tower=False)
    heads = {
        "retrieval": mtrec.Retrieval(
            dim=None, normalize=False, temperature=1.0, negatives=arrays.negatives(), loss=loss
        )
    }
    if joint:
        heads["rating"] = mtrec.Rating(label="rating", dim=DIM, members=1, layers=[], l2=0.0)

    def tower(column: str) -> Any:
        sharing = mtrec.SharedBottom(layers=[], activation="relu", initializer="identity")
        features = {"shared": {column: mtrec.Categorical(column=column)}}
        return mtrec.Tower(features=features, sharing=sharing, dim=DIM, stddev=0.1)

    model = mtrec.Recommender(query=tower("user_id"), candidate=tower("item_id"), heads=heads)
    model.adapt(dataset, np.arange(len(dataset.interactions["user"])), seed=seed)
    wide = [v for v in model.trainable_variables if v.shape[1:] == (DIM,)]
    starts = iter(tables)
    for variable in wide:
        # Rating's projections stand between the tables.
        square = variable.shape[0] == DIM
        variable.assign(np.eye(DIM) if square else next(starts))
    return model


def device() -> str:
    """What TensorFlow computes on in this process."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus]
    return ", ".join(names) or "CPU"
