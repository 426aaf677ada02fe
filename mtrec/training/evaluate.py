"""Evaluation on held-out interactions: the whole catalogue, exact, every head.

Each worker measures users of its own, in blocks. The metrics are made of sums over users, so that
nothing of a single user travels between workers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from mtrec.data import progress
from mtrec.data.columns import Columns
from mtrec.data.dataset import Dataset
from mtrec.data.histories import Histories
from mtrec.data.requests import earlier, numbers
from mtrec.data.split import Split
from mtrec.distributed.strategy import from_workers, num_workers, worker_number
from mtrec.distributed.weights import seed_for
from mtrec.errors import UserError
from mtrec.heads import metrics
from mtrec.heads.head import Head, HeldOut, Report
from mtrec.heads.tally import Tally, joined, packed, unpacked
from mtrec.model.encode import embed_items, embed_queries
from mtrec.model.recommender import Recommender
from mtrec.training import measured
from mtrec.training.measured import Measured, of_head

# The parts of a run's data that its figures are of.
SPLITS = ("val", "test")
# Users, and items, that gates are averaged over.
GATES_OVER = 1024
# Scores of the users whose vectors are held, and who are measured before sums are added to: some
# seconds of work, and no less, since the room for scores is filled with zeros each time.
SCORES_AT_ONCE = 2**28
LEAST_USERS, MOST_USERS = 256, 8192


@dataclass(frozen=True)
class Sample:
    """So many held-out users, drawn evenly by the seed: all of them for None, or if there are less.

    Attributes:
        users: How many.
        seed: The run's.
    """

    users: int | None
    seed: int

    def of(self, dataset: Dataset, rows: np.ndarray) -> tuple[np.ndarray, int | None]:
        """The interactions of `rows` that are of the sample, and of how many users it was drawn.

        That is None where all are in it.
        """
        user = np.asarray(dataset.interactions["user"])[rows]
        there = np.unique(user)
        if self.users is None or self.users >= len(there):
            return rows, None
        rng = np.random.default_rng(seed_for(self.seed, "validation users"))
        return rows[np.isin(user, rng.choice(there, self.users, replace=False))], len(there)


EVERYBODY = Sample(users=None, seed=0)


class Evaluator:
    """Judges a model on one held-out part of the data.

    Args:
        dataset: The data.
        known: What the model may know of each user: rows, what users have by them forming the
            histories, or those histories. But for data with repeats, it is masked.
        held_out: Rows to judge it on. A request is asked for with those of its user that are
            strictly earlier as well.
        population: The users that those of `held_out` were drawn from, for the margins of metrics;
            null where they are all.

    Attributes:
        held_out: Those rows, by user.
    """

    held_out: HeldOut

    def __init__(
        self,
        dataset: Dataset,
        *,
        known: np.ndarray | Histories,
        held_out: np.ndarray,
        population: int | None = None,
    ) -> None:
        self.population = population
        columns = {name: np.asarray(c)[held_out] for name, c in dataset.interactions.items()}
        known = known if isinstance(known, Histories) else Histories.of(dataset, known)
        histories = known
        if dataset.by_request:
            histories = Histories.of(dataset, np.union1d(known.rows, held_out))
        order, owner = _queries(columns, by_request=dataset.by_request)
        user, time, item = (columns[name][order] for name in ("user", "timestamp", "item"))
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        users, requests = user[first], np.zeros(len(first), np.int32)
        times = np.minimum.reduceat(time, first) if len(first) else time
        counts = histories.offsets[users + 1] - histories.offsets[users]
        if dataset.by_request or dataset.repeats:
            owners = np.repeat(np.arange(dataset.num_users + 1), np.diff(histories.offsets))
            counts = earlier((owners, histories.times), (users, times))
        if dataset.by_request:
            requests = (held_out[order[first]] + 1).astype(np.int32)
        new = histories.first_places(user, item) >= counts[owner]
        self.held_out = HeldOut(
            users=users,
            counts=counts,
            requests=requests,
            times=times.astype(np.int64),
            owner=owner,
            item=item,
            labels={name: columns[name][order] for name in dataset.labels},
            time=time.astype(np.int64),
            row=(held_out[order] + 1).astype(np.int32),
            new=new,
            asked=new | dataset.repeats,
            known=known,
            histories=histories,
            dataset=dataset,
        )

    def __call__(self, model: Recommender, *, full: bool) -> dict[str, Report]:
        """The report of each head, or its metrics alone, all of it measured in this process."""
        (everybody,) = self.shares(1)
        if full:
            return self.report(self.measure(model, everybody), model.heads)
        return self._metrics(model.heads, self.tally(model, everybody))

    def shares(self, workers: int) -> list[slice]:
        """The users that each worker measures, as positions: equally many, in their order."""
        total = len(self.held_out.users)
        return [slice(total * w // workers, total * (w + 1) // workers) for w in range(workers)]

    def measure(self, model: Recommender, users: slice) -> Measured:
        """What each head measures in full on the users of a share, nothing if it has none."""
        return measured.joined(
            [
                {f"{head}/{kind}": v for head, found in block.items() for kind, v in found.items()}
                for _, block in self._blocks(model, users, full=True)
            ]
        )

    def tally(self, model: Recommender, users: slice) -> dict[str, Tally]:
        """What each head counts of the users of a share, nothing if it has none."""
        return joined(
            [
                {name: model.heads[name].tally(mine, found) for name, found in block.items()}
                for mine, block in self._blocks(model, users, full=False)
            ]
        )

    def _blocks(
        self, model: Recommender, users: slice, *, full: bool
    ) -> Iterator[tuple[HeldOut, dict[str, dict[str, np.ndarray]]]]:
        """Some users at a time, and what each head measures of them."""
        total = users.stop - users.start
        if not total:
            return
        candidate = embed_items(model, self.held_out.dataset.num_items)
        _check_finite(candidate)
        at_once = SCORES_AT_ONCE // self.held_out.dataset.num_items
        for part in metrics.chunks(total, min(max(at_once, LEAST_USERS), MOST_USERS)):
            mine = self.held_out.of(slice(users.start + part.start, users.start + part.stop))
            with progress.quietly():
                query = embed_queries(model, mine.inputs, len(mine.users))
                _check_finite(query)
                found = {
                    name: head.measure(mine, query[name], candidate[name], full=full)
                    for name, head in model.heads.items()
                }
            yield mine, found

    def metrics_together(
        self, model: Recommender, strategy: tf.distribute.Strategy
    ) -> dict[str, Report]:
        """The metrics of each head, of all workers' shares of the users; all of them call this.

        Raises:
            UserError: On every worker, if a vector is not finite on one, or a head raises it.
            PreemptedError: Likewise, if one is to stop.
        """
        users = self.shares(num_workers(strategy))[worker_number(strategy)]
        parts = from_workers(strategy, lambda: packed(self.tally(model, users)))
        return self._metrics(model.heads, joined([unpacked(part) for part in parts]))

    def _metrics(
        self, heads: Mapping[str, Head], tallies: Mapping[str, Tally]
    ) -> dict[str, Report]:
        found = {}
        for name, head in heads.items():
            if name not in tallies:  # nobody is held out
                found[name] = Report(metrics={})
                continue
            figures = head.figures(tallies[name])
            if self.population is not None:
                figures |= {
                    f"{metric}{metrics.MARGIN}": moments.margin(metric, self.population)
                    for metric, moments in tallies[name].moments.items()
                }
            found[name] = Report(metrics=figures)
        return found

    def report(self, measured: Measured, heads: Mapping[str, Head]) -> dict[str, Report]:
        """The report of each head, from what was measured of all users; see `Head.report`.

        What each user adds is summed over their requests.
        """
        found = {
            name: head.report(self.held_out, of_head(measured, name)) if measured else Report({})
            for name, head in heads.items()
        }
        if not self.held_out.dataset.by_request:
            return found
        users = self.held_out.users
        return {
            name: replace(report, per_user=report.per_user and report.per_user.by_user(users))
            for name, report in found.items()
        }

    def gates(self, model: Recommender) -> dict[str, float]:
        """What each head's gates give the experts, as means over users and over items.

        Returns:
            `train/<head>/gate/<tower>/<expert>`, which sum to 1, and `.../entropy`, the mean over
            rows in nats: 0 where each row uses one expert, log K where it uses all K alike. With
            more than one level of gates, `.../level_<n>/...`. Nothing for a model without gates.
        """
        total = len(self.held_out.users)
        if not total:
            return {}
        users = slice(None, None, _step(total))
        num_items = self.held_out.dataset.num_items
        items = np.arange(1, num_items + 1, _step(num_items), dtype=np.int32)
        towers = model.gates(self.held_out.inputs(users), items)
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


def evaluator_of(
    split: str,
    dataset: Dataset,
    parts: Split,
    *,
    known: Histories | None = None,
    sample: Sample = EVERYBODY,
) -> Evaluator:
    """What judges a trained model on a split, `val` or `test`.

    Args:
        split: The split.
        dataset: The data.
        parts: Its parts.
        known: What users have by the rows of `fit`, or for the test of `train`, if that is there.
        sample: The users who are judged.
    """
    rows, held_out = {
        "val": (parts.fit, parts.validation),
        "test": (parts.train, parts.test),
    }[split]
    judged, population = sample.of(dataset, held_out)
    known_rows = rows if known is None else known
    return Evaluator(dataset, known=known_rows, held_out=judged, population=population)


def _check_finite(vectors: Mapping[str, np.ndarray]) -> None:
    """Refuses vectors that training made useless, of which figures would be NaN or infinite."""
    for head, each in vectors.items():
        largest = np.sqrt(np.finfo(np.float32).max / each.shape[-1])  # whose products are finite
        if not (np.abs(each) < largest).all():
            raise UserError(
                f"The vectors of the task {head!r} must be finite after training, and so must "
                "their products, and some are not; lower `tables.learning_rate` or "
                "`dense.learning_rate`."
            )


def _queries(columns: Columns, *, by_request: bool) -> tuple[np.ndarray, np.ndarray]:
    """The order of rows by user, or by user and request, and the number of the query of each."""
    user = columns["user"]
    if not by_request:
        order = np.argsort(user, kind="stable")
        return order, np.unique(user[order], return_inverse=True)[1]
    order = np.lexsort((columns["timestamp"], user))
    request = columns["request"][order] if "request" in columns else None
    number = numbers(user[order], columns["timestamp"][order], request)
    # Of one user, rows of another request may be among a request's.
    beside = np.argsort(number, kind="stable")
    return order[beside], number[beside]


def _step(rows: int) -> int:
    """Each how many-th of so many rows is among at most `GATES_OVER`, evenly spread."""
    return max(1, -(-rows // GATES_OVER))


def flat_metrics(reports: Mapping[str, Report], split: str) -> dict[str, float]:
    """`<split>/<head>/<metric>` and `baseline/<split>/<head>/<metric>` of all heads."""
    flat: dict[str, float] = {}
    for head, report in reports.items():
        flat |= {f"{split}/{head}/{name}": value for name, value in report.metrics.items()}
        flat |= {
            f"baseline/{split}/{head}/{name}": value for name, value in report.baseline.items()
        }
    return flat
