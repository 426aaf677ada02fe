"""The stages of an answer, as they are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mtrec.errors import UserError
from mtrec.serving.answers.arrange import Arrange
from mtrec.serving.answers.candidates import Best, Source
from mtrec.serving.answers.filter import Filter
from mtrec.serving.answers.fuse import Fusion


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What makes an answer: candidates are found, filtered, scored, fused and arranged.

    Args:
        candidates: Sources of candidates, by names of one's own.
        filter: Which items may be answered.
        fuse: What makes one score of what heads say; null for that of the retrieval head.
        arrange: How items stand beside each other; null for the order of their scores.
    """

    candidates: Mapping[str, Source]
    filter: Filter
    fuse: Fusion | None
    arrange: Arrange | None

    def __post_init__(self) -> None:
        for name, source in self.candidates.items():
            if isinstance(source, Best) and source.count is None and (self.fuse or self.arrange):
                raise UserError(
                    f"`candidates.{name}.count` must be a number where items are fused or arranged,"
                    " of which there would be no others; got null. Set it to 200."
                )
        if not self.candidates:
            raise UserError("`candidates` must name a source; got none. Add `mtrec.Best`.")

    def weighted(self, weights: Mapping[str, float]) -> "Answer":
        """The same with some of the weights that it is fused with."""
        assert self.fuse
        known = {**self.fuse.weights, **weights}
        return replace(self, fuse=replace(self.fuse, weights=known))  # type: ignore[type-var]


# The index's best in its order; without repeats, of what a user does not have.
PLAIN = Answer(
    candidates={"best": Best(count=None)},
    filter=Filter(seen=None, where=None, allow=None, deny=()),
    fuse=None,
    arrange=None,
)
