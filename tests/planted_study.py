"""Small studies whose outcome was planted in the data: trained, judged and compared in memory."""

from dataclasses import asdict

from silent import Silent
from small_config import composed, config_of

from mtrec.jobs import stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.reports import per_user
from mtrec.reports.groups import grouped
from mtrec.reports.tradeoff import tradeoff
from mtrec.tracking.finished import TrackedRun
from mtrec.tracking.parameters import parameters
from mtrec.tracking.run_dir import USERS


def trade(directory, *overrides, tasks=("rating", "joint"), seeds=(1,)):
    """What joint training trades in the config `overrides`, as `mtrec.compare` finds it."""
    runs, tables = [], {}
    for task in tasks:
        for seed in seeds:
            place = directory / f"{task}-{seed}"
            place.mkdir()
            config = config_of(f"task={task}", f"seed={seed}", *overrides)
            data, parts = load(config.data)
            worker.train(config, data, parts, place, Silent())
            metrics, _ = stages.evaluate(restore_run(config, data, parts, place))
            params = parameters(asdict(config))
            runs.append(
                TrackedRun(
                    run_id=str(place),
                    name=task,
                    choices={},
                    params=params,
                    metrics=metrics,
                    url="",
                    data="",
                )
            )
            tables[str(place)] = per_user.load(place / USERS)
    how = composed(name="compare", folder="compare").tradeoff
    return tradeoff(grouped(runs), how, lambda tracked: tables[tracked.run_id])
