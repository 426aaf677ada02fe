"""`python -m mtrec.launch`: data -> train -> evaluate -> index -> export, tracked in MLflow."""

from typing import TYPE_CHECKING

from mtrec.jobs.command import command, started_at

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("config", typed=False)
def main(composed: "DictConfig") -> float | None:
    """Runs the main job, see `mtrec.jobs.main_job.run`."""
    began = started_at()
    # Late, so that signals are heard before it.
    from mtrec.jobs import main_job

    return main_job.run(composed, began=began)


if __name__ == "__main__":
    main()
