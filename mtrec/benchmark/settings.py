"""The schema of `conf/benchmark/`, which Hydra knows once this is imported."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from mtrec.errors import UserError, require


@dataclass
class BenchmarkConfig:
    """The config of `python -m mtrec.benchmark`.

    Attributes:
        size: Of each row, how large its comparisons are; see `mtrec.benchmark.rows`.
    """

    rows: list[str]
    rounds: int
    memory_share: float
    seed: int
    size: dict[str, Any]
    peers: dict[str, list[str]]
    cache: str

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"rounds must be at least 1; got {self.rounds}.")
        require("memory_share", self.memory_share, above=0)


ConfigStore.instance().store(name="schema_benchmark", node=BenchmarkConfig)
