"""A node of another kind is named by the doctor, and stops a job before it trains."""

import os
import subprocess
import sys

import numpy as np
import pytest
from jobs import Job


@pytest.mark.slow
def test_a_node_with_another_version_is_refused(tmp_path):
    from ray.cluster_utils import Cluster

    other = tmp_path / "packages" / "numpy-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: numpy\nVersion: 0.1\n")
    path = os.pathsep.join([str(other.parent), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    place = ("cluster=ray_address", f"cluster.address={cluster.address}")
    try:
        cluster.add_node(num_cpus=2)
        doctor = [sys.executable, "-m", "mtrec.doctor", *place]
        before = subprocess.run(doctor, cwd=tmp_path, capture_output=True, text=True)
        cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
        after = subprocess.run(doctor, cwd=tmp_path, capture_output=True, text=True)
        job = Job(tmp_path, *place)
        job.end()
    finally:
        cluster.shutdown()
    assert "ok       ray       room for 2 workers" in before.stdout, before.stdout
    assert not list((tmp_path / "outputs").iterdir())
    assert (after.returncode, job.process.returncode) == (1, 1)
    sentence = f"has numpy 0.1 instead of {np.__version__}"
    assert "failed   ray" in after.stdout
    assert sentence in after.stdout
    assert sentence in job.text
    assert "epoch" not in job.text
