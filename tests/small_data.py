"""Small datasets that several tests build on."""

from dataclasses import replace

import numpy as np

from mtrec.data import synthetic
from mtrec.data.dataset import Dataset


def planted(**changed):
    """Synthetic data: 40 users, 30 items, 500 rows, of which 7 in 10 carry a rating."""
    sizes = {
        "num_users": 40,
        "num_items": 30,
        "num_interactions": 500,
        "num_factors": 3,
        "popularity_exponent": 0.8,
        "most_repeats": 1,
        "noise": 0.3,
        "rating_share": 0.7,
        "rating_agreement": 1.0,
        "seed": 5,
    }
    return synthetic.load(**{**sizes, **changed})


def written_out(rows, *, num_users=None, num_items=None, **columns):
    """A dataset of `(user, item, rating, timestamp)` rows; ids are u1 and i1, ..."""
    user, item, rating, time = (np.array(column) for column in zip(*rows, strict=True))
    users = np.arange(1, (num_users or user.max()) + 1)
    items = np.arange(1, (num_items or item.max()) + 1)
    return Dataset(
        name="written_out",
        users={"user_id": np.array(["", *(f"u{row}" for row in users)]), **columns},
        items={"item_id": np.array(["", *(f"i{row}" for row in items)])},
        interactions={
            "user": user.astype(np.int32),
            "item": item.astype(np.int32),
            "rating": rating.astype(np.float32),
            "timestamp": time.astype(np.int64),
        },
        user_key="user_id",
        item_key="item_id",
        title="item_id",
        rating_scale=(1.0, 5.0),
        source="written out",
        digest="",
    )


def with_negatives(dataset, *, share=0.5, seed=7):
    """The data with an item that was shown and not taken in a share of its rows."""
    rng = np.random.default_rng(seed)
    rows = len(dataset.interactions["user"])
    shown = rng.integers(1, dataset.num_items + 1, rows).astype(np.int32)
    negative = np.where(rng.random(rows) < share, shown, 0).astype(np.int32)
    return replace(dataset, interactions={**dataset.interactions, "negative": negative})


def all_rows(dataset):
    """Numbers of all interactions."""
    return np.arange(len(dataset.interactions["user"]))
