"""What a job would take is worked out from what it takes here: against numbers by hand."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from small_config import SMALL, composed, config_of

from mtrec.distributed.tables import tables_of
from mtrec.errors import UserError
from mtrec.jobs import build
from mtrec.jobs.footprint import describe
from mtrec.jobs.load import load
from mtrec.jobs.plan import plan
from mtrec.jobs.sample import Line, Sample

ROOT = Path(__file__).resolve().parents[2]
# The job of docs/distributed.md.
DOCS = [
    "task=joint",
    "head@task.heads.retrieval=softmax",
    "data=table",
    "data.labels=[clicked,seconds]",
    "train.global_batch=4096",
]
# 60 users, 50 items and 900 rows; and ten times the users, with 700 items.
JOB = [*SMALL, "task=joint", "head@task.heads.retrieval=softmax", "optimizer=rowwise_adagrad"]
HERE = {"rows": None, "items": None, "network_gbit": 8e-3}
LARGER = HERE | {"rows": 9_000, "items": 700}
# Four tables of 64 numbers a row, of items but for one of users, and two of a number.
ROWS, WIDTHS = [701, 601, 701, 701, 601, 701], [64, 64, 64, 64, 1, 1]


def shared(*more):
    return config_of(*JOB, "cluster=ray_local", "cluster.num_workers=4", *more)


@pytest.fixture(scope="module")
def sample():
    """Some steps of a job that four workers will share."""
    return Sample.taken(shared())


def test_tables_and_slots_grow_with_users_and_items(sample):
    plan = sample.plan(**LARGER)
    assert (plan.rows, plan.users, plan.items) == (9_000, 600, 700)
    assert plan.tables == sum(4 * rows * width for rows, width in zip(ROWS, WIDTHS, strict=True))
    assert plan.slots == 4 * sum(ROWS)  # an accumulator a row
    assert sample.plan(**HERE).tables == 4 * (64 * (3 * 51 + 61) + 61 + 51)


def test_of_an_elastic_job_the_least_workers_are_planned_for(sample):
    elastic = replace(sample, config=shared("cluster.num_workers=[2,4]"))
    two = replace(sample, config=shared("cluster.num_workers=2"))
    assert elastic.plan(**LARGER) == two.plan(**LARGER)
    assert elastic.plan(**LARGER) != sample.plan(**LARGER)


def test_a_replica_holds_its_share_of_tables_above_the_size_alone(sample):
    # 701 rows of 64 numbers are 0.171 MiB, 601 are 0.147.
    plan = replace(sample, config=shared("model.shard_above_mib=0.16")).plan(**LARGER)
    assert plan.tables == 4 * (64 * (3 * 176 + 601) + 601 + 701)  # 701 / 4 is 175.25
    assert plan.slots == 4 * (3 * 176 + 601 + 601 + 701)


def test_what_is_sent_is_what_the_start_up_report_says(sample):
    heads = sample.model.heads
    batches = build.batches(sample.config, sample.dataset, sample.fit, heads, 4)
    four = SimpleNamespace(num_replicas_in_sync=4, cluster_resolver=None)
    text = describe(sample.model, sample.optimizers, four, batches.step(1, 0, replicas=[0])[0])
    parts = re.findall(r"(?:sends|step, beside tables:|retrieval:) ([\d.]+) KiB", text)
    assert len(parts) == 6 + 2
    plan = sample.plan(**HERE)
    assert plan.sent / 1024 == pytest.approx(sum(map(float, parts)), abs=0.05 * len(parts))
    assert plan.sending == pytest.approx(plan.sent / 1e6)  # 8e-3 Gbit are a megabyte


def test_a_step_takes_a_replica_its_share_of_what_grows_with_the_batch(sample):
    # 2 ms, and 1 ms for each user of the batch, of which 4 ms for all 20 to update tables.
    timed = replace(sample, seconds=Line({8: 0.010, 20: 0.022}), update=0.004)
    assert timed.plan(**HERE).computing == pytest.approx(0.002 + 0.005 + 0.003)
    # Where the smaller batch seems to take less than its share, all of a step grows.
    noisy = replace(sample, seconds=Line({8: 0.001, 20: 0.020}), update=0.0)
    assert noisy.plan(**HERE).computing == pytest.approx(0.005)
    alone = replace(timed, config=config_of(*JOB)).plan(**LARGER)
    assert alone.computing == pytest.approx(0.022)
    assert (alone.sent, alone.steps) == (0, 600 / 20)
    assert alone.epoch == pytest.approx(30 * 0.022)
    sharded = replace(timed, config=shared("model.table_placement=sharded")).plan(**HERE)
    assert sharded.computing == pytest.approx(0.007)


def test_a_worker_holds_more_by_what_is_as_long_as_the_log(sample):
    alone = replace(sample, config=config_of(*JOB))
    here, larger = alone.plan(**HERE), alone.plan(**LARGER)
    more = larger.worker - here.worker
    tables = larger.tables + larger.slots - here.tables - here.slots
    # Each row has a user, an item, a rating and a time, 20 bytes, and some of what sorts them.
    assert tables + 8_100 * 20 < more < tables + 8_100 * 100
    assert here.worker > 100 * 2**20  # the libraries


def test_the_doctor_prints_the_plan(sample, monkeypatch):
    config = composed(*JOB, "plan=true", "rows=9000", "items=700", name="doctor")
    monkeypatch.setattr(Sample, "taken", lambda config: replace(sample, config=config))
    lines = str(plan(OmegaConf.to_object(config))).splitlines()
    assert lines[0] == "9,000 rows, 600 users, 700 items, replicas: 1"
    assert lines[1] == "each device: 0.7 MiB of tables, 0.0 MiB of slots"
    assert re.fullmatch(r"an epoch: 30 steps, 0\.00 hours, and validation", lines[-1])


def test_numbers_to_plan_for_are_refused_without_a_plan():
    with pytest.raises(UserError, match=r"rows must be left out without plan=true; got 9\."):
        OmegaConf.to_object(composed("rows=9", name="doctor"))


def test_the_table_of_the_docs_is_what_plans_say(tmp_path, monkeypatch):
    # What no steps tell: tables, slots, what is sent, and how many steps an epoch has.
    size = ["--rows", "200_000", "--users", "20_000", "--items", "100_000"]
    monkeypatch.setattr(sys, "argv", ["make_log.py", *size, "--output", str(tmp_path / "log")])
    runpy.run_path(str(ROOT / "experiments" / "scale" / "make_log.py"), run_name="__main__")
    monkeypatch.setenv("MTREC_CACHE", str(tmp_path))
    rows = re.findall(
        r"^\| (\d+) (M|B) \|(.*)\|$", (ROOT / "docs" / "distributed.md").read_text(), re.M
    )
    assert len(rows) == 3
    sample = None
    for number, unit, line in rows:
        items, workers, tables, slots, _, sent, _, steps, _ = map(str.strip, line.split("|"))
        rows_to_plan = int(number) * {"M": 10**6, "B": 10**9}[unit]
        job = [f"data.interactions={tmp_path / 'log'}", *DOCS]
        if int(workers) > 1:
            job += ["cluster=ray_local", f"cluster.num_workers={workers}"]
        config = config_of(*job)
        sample = replace(sample, config=config) if sample else untaken(config)
        found = sample.plan(rows=rows_to_plan, items=int(items.replace(",", "")), network_gbit=10)
        assert found.tables / 2**30 == pytest.approx(float(tables), rel=0.02)
        assert found.slots / 2**30 == pytest.approx(float(slots), rel=0.02)
        assert found.sent / 2**20 == pytest.approx(float(sent), rel=0.02)
        assert found.steps == pytest.approx(int(steps.replace(",", "")), rel=0.02)


def untaken(config):
    """A sample of a job without its steps."""
    dataset, parts = load(config.data)
    dataset = build.data(config, dataset)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    optimizers = build.optimizers(config, batches.steps_per_epoch)
    optimizers.tables.build(tables_of(model))
    nothing = Line({1: 0.0})
    return Sample(
        config, dataset, parts.fit, model, optimizers, batches, nothing, nothing, update=0.0
    )
