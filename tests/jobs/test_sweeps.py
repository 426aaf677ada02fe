"""Experiments sweep over what their files say, and every job of theirs composes."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mtrec.config import conf_directory
from mtrec.jobs.schema import register


@pytest.fixture
def loader():
    """Hydra's loader of the configs in `conf/`."""
    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def jobs(loader, *overrides, union, params, max_batch_size=None):
    """The batches of jobs that a sweeper would launch."""
    # Hydra loads its plugins anew when it starts, so that what was imported before is another.
    from mtrec.jobs.sweeper import UnionSweeper

    sweeper = UnionSweeper(union=union, params=params, max_batch_size=max_batch_size)
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(
        [*sweeper._parse_config(), *overrides]
    )
    return [
        [sorted(job) for job in batch] for batch in sweeper.split_arguments(parsed, max_batch_size)
    ]


def test_a_union_is_its_sweeps_one_after_the_other_each_with_the_common_lists(loader):
    (found,) = jobs(loader, union=[{"a": "1,2"}, {"b": "3", "c": "4,5"}], params={"seed": "7,8"})
    assert found == [
        ["a=1", "seed=7"],
        ["a=1", "seed=8"],
        ["a=2", "seed=7"],
        ["a=2", "seed=8"],
        ["b=3", "c=4", "seed=7"],
        ["b=3", "c=4", "seed=8"],
        ["b=3", "c=5", "seed=7"],
        ["b=3", "c=5", "seed=8"],
    ]


def test_the_command_line_replaces_what_the_file_says(loader):
    (found,) = jobs(loader, "seed=9", "epochs=3", union=[{"a": "1"}], params={"seed": "7,8"})
    assert found == [["a=1", "epochs=3", "seed=9"]]


def test_jobs_come_in_batches_of_the_size_that_was_asked_for(loader):
    found = jobs(loader, union=[{"a": "1,2"}, {"b": "3"}], params=None, max_batch_size=2)
    assert found == [[["a=1"], ["a=2"]], [["b=3"]]]


def test_the_trade_off_holds_both_ends_and_every_method_and_every_job_composes(loader):
    config = compose("config", ["experiment=tradeoff"], return_hydra_config=True)
    sweeper = OmegaConf.to_container(config.hydra.sweeper)
    assert sweeper.pop("_target_") == "hydra_plugins.mtrec.UnionSweeper"
    (found,) = jobs(loader, **sweeper)
    points = [next(o for o in job if not o.startswith("seed=")) for job in found[::3]]

    assert points[:2] == ["task=retrieval", "task=rating"]
    assert {"task.weights.rating=0.02", "task.weights.rating=2"} <= set(points)
    methods = {path.stem for path in (conf_directory() / "balance").glob("*.yaml")} - {"fixed"}
    assert {f"balance={method}" for method in methods} <= set(points)
    assert len(found) == 3 * len(points)
    for job in found[::3]:
        assert compose("config", ["experiment=tradeoff", *job])


def ran(body, *arguments):
    """A command whose function has this body, in a process of its own."""
    command = f"""
from mtrec.errors import UserError
from mtrec.jobs.command import command

@command("config")
def main(config):
    {body}

main()
"""
    return subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_goes_through_a_union(tmp_path):
    overrides = ["experiment=tradeoff", "hydra.sweeper.union=[{task: 'rating,retrieval'}]"]
    done = ran(
        "print('ran', *config.task.weights, config.seed)",
        *["--multirun", *overrides, f"hydra.sweep.dir={tmp_path}"],
    )

    assert done.returncode == 0, done.stderr
    heads = ("rating", "retrieval")
    lines = [line for line in done.stdout.splitlines() if line.startswith("ran")]
    assert lines == [f"ran {head} {seed}" for head in heads for seed in (1, 2, 3)]


def test_a_mistake_in_one_job_of_a_sweep_is_told_and_the_others_run(tmp_path):
    done = ran(
        "if config.seed == 2: raise UserError('seed must not be 2; got 2.')\n"
        "    return config.seed / 10",
        *["--multirun", "seed=1,2,3", f"hydra.sweep.dir={tmp_path}"],
    )

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: seed must not be 2; got 2.",
        "error: every job of a sweep must end well; 1 of 3 did not. Heed what was said of 1.",
    ]
    # The last table, in the order of the jobs.
    rows = [line.split()[:4] for line in done.stdout.splitlines() if " seed=" in f" {line}"]
    metric = "val/retrieval/ndcg_at_10"
    assert [row[1] for row in rows[-4:-1]] == ["seed=1", "seed=2", "seed=3"]
    assert [row[-1] for row in rows[-4:-1]] == ["0.1000", "failed", "0.3000"]
    assert f"best {metric} of 3 jobs: 0.3000 with" in done.stdout
    assert rows[-1][-1] == "seed=3"


def test_a_search_goes_the_way_that_is_better_and_learns_what_its_jobs_return(tmp_path):
    # The job's value is how far its rate is from 0.01: smaller is better, as of an RMSE.
    overrides = ["hydra.sweeper.n_trials=12", "train.select_by=val/rating/rmse"]
    rates = "choice(0.001, 0.01, 0.1)"
    done = ran(
        "rate = config.optimizer['tables']['learning_rate']\n"
        "    if rate > 0.05: raise UserError('too high')\n"
        "    return abs(rate - 0.01)",
        *["experiment=search", *overrides],
        f"hydra.sweeper.params={{optimizer.tables.learning_rate: '{rates}'}}",
        f"hydra.sweep.dir={tmp_path}",
    )

    assert done.returncode == 1
    assert "of 12 did not" in done.stderr.splitlines()[-1]
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.best_params["optimizer.tables.learning_rate"] == 0.01
    assert found.best_value == 0.0
