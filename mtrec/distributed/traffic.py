"""What one replica sends to the others in a step, by rings, in numbers of four bytes."""

from dataclasses import dataclass

BYTES = 4


@dataclass(frozen=True)
class Sent:
    """A part of what one replica sends in a step.

    Attributes:
        size: Bytes.
        what: What is sent, for people to read.
    """

    size: float
    what: str


def summed(numbers: float, replicas: int) -> float:
    """Bytes sent to sum n numbers over R replicas: `2 (R - 1) / R n` numbers."""
    return 2 * (replicas - 1) / replicas * BYTES * numbers


def gathered(numbers: float, replicas: int) -> float:
    """Bytes sent to gather n numbers of each of R replicas by all of them: `(R - 1) n` numbers.

    The gradient of what was gathered is summed, which sends twice as much.
    """
    return (replicas - 1) * BYTES * numbers
