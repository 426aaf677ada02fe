"""The arrays that all contestants of a comparison read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mtrec
from mtrec.benchmark.contestants.rounds import DIM, Steps
from mtrec.data.columns import Texts
from mtrec.data.dataset import Dataset


def log(*, rows: int, interactions: int, ids: str, seed: int) -> dict[str, Any]:
    """Interactions of as many users as items.

    Args:
        rows: Number of users, and of items.
        interactions: Their number.
        ids: How items are drawn: `zipf` (exponent 1.2) or `uniform`. Users are drawn evenly.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    zipf = ids == "zipf"
    item = rng.zipf(1.2, interactions) % rows if zipf else rng.integers(0, rows, interactions)
    return {
        "user": rng.integers(1, rows + 1, interactions).astype(np.int32),
        "item": item.astype(np.int32) + 1,
        "rating": rng.integers(1, 6, interactions).astype(np.float32),
        "users": np.array(rows),
        "items": np.array(rows),
        "seed": np.array(seed),
    }


def dataset(found: Mapping[str, np.ndarray]) -> Dataset:
    """A log as mtrec takes it."""
    import pyarrow as pa

    def numbered(rows: int) -> Texts:
        names = pa.array(np.arange(1, rows + 1)).cast(pa.large_string())
        return Texts.of_arrow(pa.concat_arrays([pa.array([""], pa.large_string()), names]))

    columns = {name: found[name] for name in ("user", "item", "rating")}
    return Dataset(
        name="made",
        users={"user_id": numbered(int(found["users"]))},
        items={"item_id": numbered(int(found["items"]))},
        interactions={**columns, "timestamp": np.zeros(len(found["user"]), np.int64)},
        user_key="user_id",
        item_key="item_id",
        title="item_id",
        rating_scale=(1.0, 5.0),
        source="drawn at random",
        digest="",
    )


def negatives() -> Any:
    """The targets of the batch, log Q from training counts."""
    return mtrec.InBatch(
        uniform=0, past_batches=0, given=False, mined=0, local=False, log_q_rate=None
    )


def batches(data: Dataset, *, batch: int, seed: int, replicas: int = 1) -> Any:
    """Batches of single rows without histories."""
    return mtrec.Batches(
        data,
        np.arange(len(data.interactions["user"])),
        mtrec.Batching(batch_of="rows", global_batch=batch, history_share=0.0, chronological=False),
        negatives=negatives(),
        num_replicas=replicas,
        seed=seed,
    )


def write_steps(folder: Path, *, batch: int, rows: int, ids: str, steps: int, seed: int) -> Path:
    """Writes `log.npz`, which mtrec reads, and `steps.npz`, the same batches for peers.

    Step k has `user_k`, `item_k`, `rating_k` and `log_q_k`, `[B]` each; the distinct items of the
    pool `pool_k` and their `pool_log_q_k`, `[P]`; each row's place in it, `place_k` `[B]`; and
    pairs of row and place that are no negatives, `own_k` `[K, 2]`, the targets among them.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = log(rows=rows, interactions=max(batch * steps, 200_000), ids=ids, seed=seed)
    np.savez(folder / "log.npz", **found)
    made = batches(dataset(found), batch=batch, seed=seed)
    arrays: dict[str, Any] = {}
    for k in range(steps):
        (one,) = made.step(1, k)
        real = one.rows.weight > 0
        query = one.rows.query[real]
        pool = one.pool.items > 0
        mine = one.own.query[one.own.query >= 0], one.own.pool[one.own.query >= 0]
        place = one.rows.pool[real]
        arrays |= {
            f"user_{k}": one.query.users[query],
            f"item_{k}": one.items[one.rows.item[real]],
            f"rating_{k}": one.rows.labels["rating"][real],
            f"log_q_{k}": one.rows.log_q[real],
            f"pool_{k}": one.pool.items[pool],
            f"pool_log_q_{k}": one.pool.log_q[pool],
            f"place_{k}": place.astype(np.int64),
            f"own_{k}": np.concatenate(
                [np.stack(mine, axis=1), np.stack([np.arange(len(place)), place], axis=1)]
            ).astype(np.int64),
        }
        assert (query == np.arange(len(query))).all()
    np.savez(folder / "steps.npz", **arrays)
    return folder


def losses(folder: Path) -> dict[str, float]:
    """The mean losses of the first step by NumPy alone, in float64.

    Returns:
        `pool`: softmax over the distinct items of the batch without those the user has; `in_batch`:
        over the batch's rows without the target's repeats; `repeats`: with them; all corrected for
        log Q; `rating`: the squared error of the mean rating plus the dot product.
    """
    written = Steps(str(folder))
    items, batch = written.items, written.batches[0]
    query = written.users[batch["user"]].astype(np.float64)
    item, log_q, own, pool = (batch[name] for name in ("item", "log_q", "own", "pool"))
    target = items[item].astype(np.float64)
    product = np.einsum("bd,bd->b", query, target)
    positive = product - log_q
    sums: dict[str, list[np.ndarray]] = {"pool": [], "in_batch": [], "repeats": []}
    for start in range(0, len(query), 512):
        part = slice(start, start + 512)
        of_part = own[(own[:, 0] >= start) & (own[:, 0] < start + 512)] - [start, 0]
        scores = query[part] @ items[pool].astype(np.float64).T - batch["pool_log_q"]
        scores[of_part[:, 0], of_part[:, 1]] = -np.inf
        of_pool = np.exp(scores).sum(axis=1) + np.exp(positive[part])
        sums["pool"].append(np.log(of_pool) - positive[part])
        scores = np.exp(query[part] @ target.T - log_q)
        sums["repeats"].append(np.log(scores.sum(axis=1)) - positive[part])
        again = item[part, np.newaxis] == item
        again[np.arange(len(again)), np.arange(start, start + len(again))] = False
        sums["in_batch"].append(np.log(np.where(again, 0, scores).sum(axis=1)) - positive[part])
    found = {name: float(np.concatenate(parts).mean()) for name, parts in sums.items()}
    return found | {"rating": float(np.square(written.mean + product - batch["rating"]).mean())}


def write_ranking(folder: Path, *, users: int, items: int, seed: int) -> Path:
    """Writes `log.npz`, of which the last three rows of each user are held out, and `vectors.npz`.

    Every item occurs, and a user has fifty. The vectors are `query [U, D]` and `candidate [C, D]`.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    known = np.concatenate([np.arange(items), rng.zipf(1.3, users * 50) % items])
    owner = np.concatenate([rng.integers(0, users, items), np.repeat(np.arange(users), 50)])
    target = rng.integers(0, items, users * 3)
    np.savez(
        folder / "log.npz",
        user=np.concatenate([owner, np.repeat(np.arange(users), 3)]).astype(np.int32) + 1,
        item=np.concatenate([known, target]).astype(np.int32) + 1,
        rating=np.full(len(known) + len(target), 5, np.float32),
        users=np.array(users),
        items=np.array(items),
        held_out=np.array(len(target)),
        seed=np.array(seed),
    )
    vectors = {"query": users, "candidate": items}
    drawn: dict[str, Any] = {
        n: rng.standard_normal((rows, DIM), dtype=np.float32) for n, rows in vectors.items()
    }
    np.savez(folder / "vectors.npz", **drawn)
    return folder


def write_search(folder: Path, *, vectors: int, queries: int, seed: int) -> Path:
    """Writes `search.npz`: `vectors [C, D]` in clusters of a hundred, and `queries` near.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    def near(centres: np.ndarray, count: int) -> np.ndarray:
        noise = rng.standard_normal((count, DIM), dtype=np.float32)
        return centres[rng.integers(0, len(centres), count)] + np.float32(0.5) * noise

    centres = rng.standard_normal((max(vectors // 100, 1), DIM), dtype=np.float32)
    made = near(centres, vectors)
    np.savez(folder / "search.npz", vectors=made, queries=near(centres, queries))
    return folder
