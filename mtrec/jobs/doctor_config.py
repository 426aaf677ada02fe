"""The typed schema of `conf/doctor.yaml`."""

from dataclasses import dataclass

from mtrec.config import Config
from mtrec.errors import UserError, require


@dataclass
class DiskConfig:
    """Free space in GiB below which the doctor warns, and fails."""

    warn_gib: float
    fail_gib: float

    def __post_init__(self) -> None:
        require("disk.warn_gib", self.warn_gib, least=0)
        require("disk.fail_gib", self.fail_gib, least=0)


@dataclass
class DoctorConfig(Config):
    """The config of `python -m mtrec.doctor`: that of a job, and what to look at.

    Attributes:
        outputs, cache: Where runs and prepared data will be written.
        disk: See `DiskConfig`.
        plan: Whether to say what the job would take; see `mtrec.jobs.plan`.
        rows, items: Interactions and items to plan for; null for those of the data.
        network_gbit: What a replica sends in a second, in Gbit.
    """

    outputs: str
    cache: str
    disk: DiskConfig
    plan: bool
    rows: int | None
    items: int | None
    network_gbit: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("network_gbit", self.network_gbit, above=0)
        for name in ("rows", "items"):
            number = getattr(self, name)
            if number is not None:
                require(name, number, least=1)
                if not self.plan:
                    raise UserError(
                        f"{name} must be left out without plan=true; got {number}. Add plan=true."
                    )
