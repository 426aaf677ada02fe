"""Answers as a whole: their weights, chosen on validation, and what they reach on a held-out part.

Shapes: `U` users, `H` held-out items that their users are asked for, `N` candidates of a user.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mtrec.config import Config
from mtrec.data.inputs import QueryInputs
from mtrec.errors import UserError
from mtrec.heads import metrics, tally
from mtrec.heads.head import HeldOut, Report
from mtrec.jobs import build
from mtrec.jobs.keys import told_in_keys
from mtrec.serving.answer import Answerer, check_names
from mtrec.serving.answers.candidates import Own
from mtrec.serving.index import Index
from mtrec.serving.run import Run

USERS_AT_ONCE = 256
# Places of an answer that are looked at.
DEPTH = max(metrics.RECALL_AT)
# Users whose candidates are held at once while weights are chosen, and how often all are gone over.
MOST_USERS, ROUNDS = 10_000, 2


@dataclass(frozen=True)
class Wanted:
    """What users are to be answered with.

    Attributes:
        held_out: The held-out part.
        users: Their positions in `held_out.users`, `[U]`, ascending.
        owner: Position in `users` of each item, `[H]`, ascending.
        item: The items, each once a user, `[H]`.
        new: Whether the user does not have it, `[H]`.
    """

    held_out: HeldOut
    users: np.ndarray
    owner: np.ndarray
    item: np.ndarray
    new: np.ndarray

    @classmethod
    def of(cls, run: Run, held_out: HeldOut, most: int | None = None) -> "Wanted":
        """What a run's retrieval head is judged by; of at most so many users, evenly spread."""
        assert run.retrieval
        held_out = run.model.heads[run.retrieval].positive(held_out)
        rows = np.flatnonzero(held_out.asked)
        pairs = np.stack([held_out.owner[rows], held_out.item[rows]])
        rows = rows[np.sort(np.unique(pairs, axis=1, return_index=True)[1])]
        users = np.unique(held_out.owner[rows])
        users = users[:: -(-len(users) // most)] if most and len(users) else users
        rows = rows[np.isin(held_out.owner[rows], users)]
        owner = np.searchsorted(users, held_out.owner[rows])
        return cls(held_out, users, owner, held_out.item[rows], held_out.new[rows])

    def parts(self) -> Iterator[tuple[QueryInputs, np.ndarray, np.ndarray]]:
        """The queries of some users, and whose items are in it, `[h]` each: owner and item."""
        for part in metrics.chunks(len(self.users), USERS_AT_ONCE):
            rows = slice(*np.searchsorted(self.owner, [part.start, part.stop]))
            inputs = self.held_out.inputs(self.users[part])
            yield inputs, self.owner[rows] - part.start, self.item[rows]

    def report(self, ranks: np.ndarray, rows: np.ndarray) -> Report:
        """Ranking metrics of some of the items, given by a mask, `[H]`, from their ranks, `[h]`."""
        users, owner = np.unique(self.owner[rows], return_inverse=True)
        found = metrics.ranking(ranks, owner, len(users))
        per_user = tally.PerUser.summed(found, self.users[users], len(self.held_out.users))
        if self.held_out.dataset.by_request:
            per_user = per_user.by_user(self.held_out.users)
        means = {name: float(values.mean()) for name, values in found.items()}
        return Report(metrics=means, per_user=per_user)

    def mean_share(self, found: np.ndarray) -> float:
        """The share of a user's items that is found, `[H]`, as a mean over users."""
        total, hits = np.bincount(self.owner), np.bincount(self.owner, weights=found)
        return float(np.mean(hits / total))


def measure(run: Run, index: Index, held_out: HeldOut) -> dict[str, Report]:
    """What answers reach on a held-out part, as means over users.

    Returns:
        `answer`: recall, NDCG and the like by the names of `mtrec.heads.metrics.ranking`, and what
        each stage leaves of it: `filter_recall`, the share of a user's items that the filter lets
        through, `candidates_recall`, the share that is among the candidates, and
        `fused_recall_at_10`, recall before the items are arranged. Of data with repeats also
        `answer/new` and `answer/repeat`, of the items that users do not have and of those they do,
        as the one list has them. Nothing without an item to answer with.
    """
    wanted = Wanted.of(run, held_out)
    if not len(wanted.users):
        return {}
    answerer = Answerer(run, index, traced=False, known=held_out.known)
    ranks: dict[str, list[np.ndarray]] = {"candidates": [], "fused": [], "answered": []}
    for inputs, owner, item in wanted.parts():
        staged = answerer.stages(inputs, DEPTH)
        for name, found in ranks.items():
            found.append(_places(np.asarray(getattr(staged, name)), owner, item))
    candidates, fused, answered = (np.concatenate(found) for found in ranks.values())
    data, filter_ = run.dataset, run.answer.filter
    allowed = filter_.kept(data)[wanted.item - 1] & (wanted.new | filter_.keeps_seen(data))
    kinds = {"answer": np.ones(len(answered), bool)}
    if data.repeats:
        kinds |= {"answer/new": wanted.new, "answer/repeat": ~wanted.new}
    reports = {
        name: wanted.report(answered[rows], rows) for name, rows in kinds.items() if rows.any()
    }
    reports["answer"].metrics.update(
        filter_recall=wanted.mean_share(allowed),
        candidates_recall=wanted.mean_share(candidates < NOWHERE),
        fused_recall_at_10=wanted.mean_share(fused < 10),
    )
    return reports


NOWHERE = np.iinfo(np.int32).max


def _places(lists: np.ndarray, owner: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Where each item stands in its owner's list, from 0, `[h]`."""
    if not lists.shape[1]:
        return np.full(len(item), NOWHERE)
    there = lists[owner] == item[:, np.newaxis]
    return np.where(there.any(axis=1), there.argmax(axis=1), NOWHERE)


def tuned(run: Run, index: Index, validation: HeldOut) -> Run:
    """The run with weights for those of its answer that are to be chosen.

    One after the other gets the weight of a grid that is best on the validation part while the
    others stay; all are gone over twice.
    """
    fuse = run.answer.fuse
    if not fuse or not fuse.untuned:
        return run
    wanted = Wanted.of(run, validation, MOST_USERS)
    answerer = Answerer(run, index, traced=False, known=validation.known)
    prepared: list[dict[str, np.ndarray]] = []
    targets = []
    for inputs, owner, item in wanted.parts():
        items, told = answerer.told(inputs)
        ready = fuse.prepared(told, items > 0)
        prepared.append({name: np.asarray(values) for name, values in ready.items()})
        place = _places(np.asarray(items), owner, item)
        targets.append((owner, place, np.asarray(items) > 0))

    def reached(weights: dict[str, float]) -> float:
        ranks = []
        for ready, (owner, place, valid) in zip(prepared, targets, strict=True):
            total = np.where(valid, fuse.combined(ready, weights), -np.inf)
            order = np.argsort(np.argsort(-total, axis=1, kind="stable"), axis=1, kind="stable")
            there = place < NOWHERE
            found = order[owner, np.where(there, place, 0)]
            ranks.append(np.where(there, found, NOWHERE))
        found = metrics.ranking(np.concatenate(ranks), wanted.owner, len(wanted.users))
        return float(found[fuse.tuned_by].mean())

    weights = {name: weight or 0.0 for name, weight in fuse.weights.items()}
    for _ in range(ROUNDS):
        for name in fuse.untuned:
            found = [reached(weights | {name: weight}) for weight in fuse.tried]
            weights[name] = fuse.tried[int(np.argmax(found))]
    chosen = {name: weights[name] for name in fuse.untuned}
    return replace(run, answer=run.answer.weighted(chosen))


@told_in_keys("answer")
def check(config: Config, run: Run, validation: HeldOut) -> None:
    """Refuses before training what an answer would be refused for after it.

    Args:
        config: The config, which says what makes an answer.
        run: The run that is about to be trained.
        validation: The validation part.

    Raises:
        UserError: If a stage names what the data or the model lacks, or there is nothing to choose
            weights on.
    """
    answer = build.answer(config)
    run = replace(run, answer=answer)
    if not run.retrieval:
        return
    if "answer" in run.model.heads:
        raise UserError(
            "`heads` must leave the name answer to the metrics of whole answers; got a head of "
            "that name. Give it another one."
        )
    check_names(run)
    answer.filter.kept(run.dataset)
    if answer.arrange:
        answer.arrange.categories(run.dataset)
    for name, source in answer.candidates.items():
        if isinstance(source, Own) and not answer.filter.keeps_seen(run.dataset):
            raise UserError(
                f"`candidates.{name}` must be left out where `filter.seen` leaves none of what a "
                "user has. Leave it out, or set `repeats`=true."
            )
    untuned = answer.fuse.untuned if answer.fuse else []
    if untuned and not len(Wanted.of(run, validation).users):
        raise UserError(
            "`fuse.weights` must be numbers without a validation part to choose them on; got null "
            f"for {', '.join(untuned)}. Set it to 1, or raise `split.validation_share`."
        )
