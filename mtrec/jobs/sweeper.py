"""A Hydra sweeper for several small sweeps in one: what no Cartesian product can say."""

from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


@dataclass
class UnionSweeperConf(BasicSweeperConf):
    """Hydra's basic sweeper, and the sweeps to go through."""

    _target_: str = "hydra_plugins.mtrec.UnionSweeper"
    union: list[dict[str, str]] = field(default_factory=list)


class UnionSweeper(BasicSweeper):
    """Goes through several sweeps, one after the other.

    Each is the Cartesian product of its own lists, of `params` and of the command line's; a later
    one of these replaces an earlier one's values of the same parameter.

    Args:
        union: The sweeps, each a mapping of parameters to lists of values as on the command line.
        params: Lists that belong to every sweep.
        max_batch_size: See Hydra's basic sweeper.
    """

    # See `mtrec.jobs.schema.register`.
    __module__ = "hydra_plugins.mtrec"

    def __init__(
        self,
        union: list[dict[str, str]],
        params: dict[str, str] | None,
        max_batch_size: int | None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.union = union

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches; `overrides` are those of all sweeps."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs: list[list[str]] = []
        for sweep in self.union:
            own = parser.parse_overrides([f"{name}={values}" for name, values in sweep.items()])
            (product,) = BasicSweeper.split_arguments([*own, *overrides], None)
            jobs += product
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))
