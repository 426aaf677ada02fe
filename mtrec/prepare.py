"""`python -m mtrec.prepare`: files become columns on disk, as the main job makes them first."""

from typing import TYPE_CHECKING, cast

from mtrec.jobs.command import command, console, started_at

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("prepare", typed=False)
def main(composed: "DictConfig") -> None:
    """Prepares the data of the config, so that jobs with the same `data` find it ready.

    Raises:
        UserError: If the data cannot be had, or is not what training could use.
    """
    began = started_at()
    # Late, so that signals are heard before it.
    from omegaconf import OmegaConf

    from mtrec.config import Config
    from mtrec.data import progress
    from mtrec.data.columns import parts_of
    from mtrec.jobs.inferred import heeded
    from mtrec.jobs.load import whole
    from mtrec.jobs.terminal import Terminal

    config = cast(Config, OmegaConf.to_object(heeded(composed)[0]))
    terminal = Terminal(console(), began=began)
    with terminal.following(), progress.stage("data", unit="rows"):
        dataset = whole(config.data)
        rows = len(dataset.interactions["user"])
        progress.advance(rows, rows, "rows")
    tables = (dataset.users, dataset.items, dataset.interactions)
    arrays = [
        part for table in tables for column in table.values() for part in parts_of(column).values()
    ]
    print(
        f"{dataset.name}: {rows:,} interactions of "
        f"{dataset.num_users:,} users and {dataset.num_items:,} items, "
        f"{sum(array.nbytes for array in arrays) / 2**20:,.1f} MiB, digest {dataset.digest:.12}"
    )


if __name__ == "__main__":
    main()
