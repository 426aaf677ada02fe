"""For how many batches to train, and what happens between them."""

import re
from dataclasses import dataclass

from mtrec.errors import UserError


@dataclass
class Schedule:
    """How long to train and how to choose the model.

    Attributes:
        epochs: Epochs at most.
        max_steps: Steps at most, or null.
        encode_at_once: See `mtrec.training.step.Step`.
        steps_per_call: Steps taken by one call of the compiled function; one with `encode_at_once`.
        telemetry_every: Steps between those whose gradients and updates are looked at, or null.
        checkpoint_every: Steps between checkpoints within an epoch (`100`), or the seconds between
            them (`60s`); null for one at the end of each epoch alone.
        patience: Epochs without a better model after which to stop, or null.
        select_by: Validation metric that selects the model, such as `val/rating/rmse`; null for the
            last epoch.

    Raises:
        UserError: If a number is below 1, or there is patience without a metric.
    """

    epochs: int
    max_steps: int | None
    encode_at_once: int | None
    steps_per_call: int
    telemetry_every: int | None
    checkpoint_every: str | None
    patience: int | None
    select_by: str | None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_call"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("max_steps", "encode_at_once", "telemetry_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, or null; got {value}.")
        every = self.checkpoint_every
        if every is not None and not re.fullmatch(r"[1-9]\d*s?", every):
            raise UserError(
                f"`checkpoint_every` must be steps (100), seconds (60s) or null; got {every}."
            )
        if self.patience is not None and self.select_by is None:
            raise UserError(
                "`patience` must be null with `select_by`=null: no epoch is better than another; "
                f"got {self.patience}."
            )
