"""Evaluation on held-out interactions: the whole catalogue, exact, every head."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtrec import metrics
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories, first_of_each
from mtrec.heads.head import HeldOut, Report
from mtrec.model import Recommender

USERS_AT_ONCE = 1024
ITEMS_AT_ONCE = 65_536
# Users, and items, that gates are averaged over.
GATES_OVER = 1024


class Evaluator:
    """Judges a model on one held-out part of the data.

    Args:
        dataset: The data.
        known: Rows the model may know of each user: they form the histories and are masked.
        held_out: Rows to judge it on.
    """

    def __init__(self, dataset: Dataset, *, known: np.ndarray, held_out: np.ndarray) -> None:
        columns = {name: np.asarray(c)[held_out] for name, c in dataset.interactions.items()}
        order = np.argsort(columns["user"], kind="stable")
        self.dataset = dataset
        self.known = Histories.of(dataset, known)
        self.users, self.owner = np.unique(columns["user"][order], return_inverse=True)
        self.item = columns["item"][order]
        self.rating = columns["rating"][order]
        entries, owners = self.known.entries(self.users)
        width = dataset.num_items + 1
        pairs = owners.astype(np.int64) * width + self.known.items[entries]
        mine = self.owner.astype(np.int64) * width + self.item
        self.new = ~np.isin(mine, pairs) & first_of_each(mine)

    def __call__(self, model: Recommender, *, full: bool) -> dict[str, Report]:
        """The report of each head; see `Head.evaluate`."""
        query = embed_users(model, self.users, self.known)
        candidate = embed_items(model, self.dataset.num_items)
        return {
            name: head.evaluate(
                HeldOut(
                    users=self.users,
                    query=query[name],
                    candidate=candidate[name],
                    owner=self.owner,
                    item=self.item,
                    rating=self.rating,
                    new=self.new,
                    known=self.known,
                    dataset=self.dataset,
                ),
                full=full,
            )
            for name, head in model.heads.items()
        }

    def gates(self, model: Recommender) -> dict[str, float]:
        """What each head's gates give the experts, as means over users and over items.

        Returns:
            `train/<head>/gate/<tower>/<expert>`, which sum to 1, and `.../entropy`, the mean over
            rows in nats: 0 where each row uses one expert, log K where it uses all K alike. With
            more than one level of gates, `.../level_<n>/...`. Nothing for a model without gates.
        """
        users = _spread(self.users)
        entries, owners = self.known.entries(users)
        items = _spread(np.arange(1, self.dataset.num_items + 1))
        towers = model.gates(
            users.astype(np.int32), self.known.items[entries], owners, items.astype(np.int32)
        )
        flat: dict[str, float] = {}
        for tower, heads in towers.items():
            for head, levels in heads.items():
                for level, gate in enumerate(levels, start=1):
                    path = f"train/{head}/gate/{tower}"
                    path += f"/level_{level}" if len(levels) > 1 else ""
                    flat |= {f"{path}/{name}": float(np.mean(w)) for name, w in gate.items()}
                    weights = np.stack(list(gate.values()))
                    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-30)), axis=0)
                    flat[f"{path}/entropy"] = float(np.mean(entropy))
        return flat


def _spread(rows: np.ndarray) -> np.ndarray:
    """At most `GATES_OVER` of the rows, evenly spread."""
    return rows[:: -(-len(rows) // GATES_OVER)]


def embed_users(model: Recommender, users: np.ndarray, known: Histories) -> dict[str, np.ndarray]:
    """Query representations of user rows `[U]` for each head, `[U, D]`."""
    parts = []
    for part in metrics.chunks(len(users), USERS_AT_ONCE):
        entries, owners = known.entries(users[part])
        parts.append(model.queries(users[part].astype(np.int32), known.items[entries], owners))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def embed_items(model: Recommender, num_items: int) -> dict[str, np.ndarray]:
    """Candidate representations of items 1..C for each head, `[C, D]`."""
    rows = np.arange(1, num_items + 1, dtype=np.int32)
    parts = [
        model.candidates(tf.constant(rows[part]))
        for part in metrics.chunks(num_items, ITEMS_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def flat_metrics(reports: Mapping[str, Report], split: str) -> dict[str, float]:
    """`<split>/<head>/<metric>` and `baseline/<split>/<head>/<metric>` of all heads."""
    flat: dict[str, float] = {}
    for head, report in reports.items():
        flat |= {f"{split}/{head}/{name}": value for name, value in report.metrics.items()}
        flat |= {
            f"baseline/{split}/{head}/{name}": value for name, value in report.baseline.items()
        }
    return flat
