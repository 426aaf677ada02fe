"""A whole job with a fixed seed, whose metrics stay as they are unless a commit says why."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from silent import Silent
from small_config import config_of

from mtrec.jobs import stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run

GOLDEN = Path(__file__).parent.parent / "golden" / "job_metrics.json"
JOB = (
    "task=joint",
    "data=synthetic",
    "data.num_users=300",
    "data.num_items=200",
    "data.num_interactions=9000",
    "train.epochs=3",
    "train.global_batch=64",
    "seed=7",
)


def metrics_of_the_job(directory: Path) -> dict[str, float]:
    config = config_of(*JOB)
    dataset, parts = load(config.data)
    worker.train(config, dataset, parts, directory, Silent())
    metrics, _ = stages.evaluate(restore_run(config, dataset, parts, directory))
    return metrics


def processor() -> str:
    """What decides how TensorFlow and NumPy order the terms of a sum."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    found = sorted({"avx2", "fma", "avx512f", "avx512_bf16", "amx_tile"} & set(flags))
    return " ".join([platform.machine(), *found])


def test_a_job_of_three_epochs_ends_with_the_metrics_it_always_had(tmp_path: Path) -> None:
    found = {"processor": processor(), "metrics": metrics_of_the_job(tmp_path)}
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was not there and has been written; look at it and run again")
    golden = json.loads(GOLDEN.read_text())
    names, values = zip(*golden["metrics"].items(), strict=True)
    assert tuple(found["metrics"]) == names
    if golden["processor"] == found["processor"]:
        assert found["metrics"] == golden["metrics"]  # to the last bit
    else:
        np.testing.assert_allclose(list(found["metrics"].values()), values, rtol=1e-4)
