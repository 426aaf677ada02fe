"""What heads count of held-out users, so that what others count of more users is added to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtrec.heads.metrics import ROOTS, from_totals

# Of a normal distribution, 95 % lies within so many standard deviations.
DEVIATIONS = 1.96
# Before the name of a metric, that of its sums.
_MOMENTS = "moments of "


@dataclass(frozen=True)
class PerUser:
    """What each held-out user adds to a head's metrics, so that users can be drawn again.

    A metric is the sum of its totals over the sum of the counts, or the root of that; see
    `mtrec.heads.metrics.from_totals`. A mean over users has a count of 1 for each of them.

    Attributes:
        count: What the head counts of each user in `HeldOut.users`, `[U]`; 0 for a user whose rows
            it cannot judge.
        totals: Metric name to the sum over what was counted, `[U]`.
    """

    count: np.ndarray
    totals: dict[str, np.ndarray]

    @classmethod
    def summed(
        cls, values: Mapping[str, np.ndarray], owner: np.ndarray, num_users: int
    ) -> "PerUser":
        """Sums what was measured, `[N]` for each metric, over its owners, `[N]` in 0..U-1."""
        return cls(
            count=np.bincount(owner, minlength=num_users),
            totals={
                name: np.bincount(owner, weights=measured, minlength=num_users)
                for name, measured in values.items()
            },
        )

    def by_user(self, users: np.ndarray) -> "PerUser":
        """Sums over those of one user each, given the user row of every request, `[U]`."""
        _, owner, counts = np.unique(users, return_inverse=True, return_counts=True)
        summed = PerUser.summed({"": self.count, **self.totals}, owner, len(counts))
        count = summed.totals.pop("").astype(self.count.dtype)
        return PerUser(count=count, totals=summed.totals)


@dataclass(frozen=True)
class Moments:
    """Sums over users of what each of them adds to a metric: its count c and its total t.

    Attributes:
        values: The users with a count, then sums of c, t, c c, c t and t t, `[6]`.
    """

    values: np.ndarray

    @classmethod
    def of(cls, count: np.ndarray, total: np.ndarray) -> "Moments":
        """Those of users with these counts and totals, `[U]` each."""
        c, t = (np.asarray(each, np.float64) for each in (count, total))
        return cls(np.array([np.count_nonzero(c), c.sum(), t.sum(), c @ c, c @ t, t @ t]))

    def metric(self, name: str) -> float:
        """The metric of that name; there must be something counted."""
        return float(from_totals(name, self.values[2], self.values[1]))

    def margin(self, name: str, population: int) -> float:
        """Half of the metric's 95 % interval, if users were drawn evenly out of so many.

        That of a ratio of means (Cochran, Sampling Techniques, 1977, section 2.11), by the delta
        method for a root. NaN of one user.
        """
        users, c, t, cc, ct, tt = self.values
        if users < 2:
            return float("nan")
        ratio = t / c
        squares = max(tt - 2 * ratio * ct + ratio**2 * cc, 0.0)
        left_out = max(1 - users / population, 0.0)
        error = np.sqrt(left_out * users / (users - 1) * squares) / c
        if name in ROOTS:
            error = error / (2 * np.sqrt(ratio)) if ratio else 0.0
        return float(DEVIATIONS * error)


@dataclass(frozen=True)
class Tally:
    """What a head's metrics of some users are made of.

    Attributes:
        sums: Numbers by name, of any shape, to which those of other users are added.
        rows: What no sum tells, a value a row: that of other users is put behind it.
    """

    sums: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def moments(self) -> dict[str, Moments]:
        """Those of each metric that is a mean, by its name; none of what was not counted."""
        found = {
            name.removeprefix(_MOMENTS): Moments(values)
            for name, values in self.sums.items()
            if name.startswith(_MOMENTS)
        }
        return {name: moments for name, moments in found.items() if moments.values[0]}

    @classmethod
    def of(
        cls,
        per_user: PerUser | None,
        sums: Mapping[str, np.ndarray] | None = None,
        rows: Mapping[str, np.ndarray] | None = None,
    ) -> "Tally":
        """That of the metrics which users add to, and of what else there is."""
        totals = per_user.totals if per_user else {}
        found = {
            f"{_MOMENTS}{name}": Moments.of(per_user.count, total).values
            for name, total in totals.items()
            if per_user
        }
        return cls(sums={**found, **(sums or {})}, rows=rows or {})

    def means(self) -> dict[str, float]:
        """The metrics that are means over users or rows, or roots of these."""
        return {name: moments.metric(name) for name, moments in self.moments.items()}


def joined(parts: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The tally of each head of all users, from those of consecutive ones; of nobody it is none."""
    found = [part for part in parts if part]
    return {
        head: Tally(
            sums={
                name: np.sum([part[head].sums[name] for part in found], axis=0)
                for name in tally.sums
            },
            rows={
                name: np.concatenate([part[head].rows[name] for part in found])
                for name in tally.rows
            },
        )
        for head, tally in (found[0] if found else {}).items()
    }


def packed(tallies: Mapping[str, Tally]) -> dict[str, np.ndarray]:
    """The tallies of heads as arrays of distinct names."""
    return {
        f"{head}/{kind}/{name}": values
        for head, tally in tallies.items()
        for kind, arrays in (("", {"": np.zeros(0)}), ("sums", tally.sums), ("rows", tally.rows))
        for name, values in arrays.items()
    }


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, Tally]:
    """What was `packed`."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for path, values in arrays.items():
        head, kind, name = path.split("/", 2)
        found.setdefault(head, {"": {}, "sums": {}, "rows": {}})[kind][name] = values
    return {head: Tally(kinds["sums"], kinds["rows"]) for head, kinds in found.items()}
