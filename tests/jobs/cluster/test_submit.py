"""`ray job submit` runs the main job on a Ray head."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import psutil
import pytest
from jobs import JOB, mlflow_runs
from layouts import free_ports

RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


@contextmanager
def ray_head(environment):
    """A Ray head on ports of its own, until the end; yields the address that takes jobs."""
    port, dashboard, client, agent = free_ports(4)
    # Short: Ray puts sockets there.
    folder = tempfile.mkdtemp(prefix="ray")
    places = (
        f"--temp-dir={folder}",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
    )
    head = subprocess.Popen(
        [*RAY, "start", "--head", "--block", "--num-cpus=2", *places],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def submitted(address, environment, command):
    """What `ray job submit` prints, asked again until the head takes jobs."""
    for _ in range(30):
        done = subprocess.run(
            [*RAY, "job", "submit", f"--address={address}", "--", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if "Running entrypoint" in done.stdout:
            break
        time.sleep(2)
    return done


@pytest.mark.slow
def test_ray_job_submit_runs_the_main_job(tmp_path):
    pytest.importorskip("aiohttp_cors", reason="needs mtrec[cluster]")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | token
    overrides = [
        "cluster=ray_address",
        "cluster.address=auto",
        "cluster.num_workers=2",
        "train.max_steps=6",
        f"hydra.run.dir={tmp_path / 'run'}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
    ]
    command = [sys.executable, "-m", "mtrec.launch", *JOB, *overrides]
    with ray_head(environment) as address:
        done = submitted(address, environment, command)
    assert done.returncode == 0, done.stdout
    assert "MultiWorkerMirroredStrategy: 2 replicas in 2 workers" in done.stdout
    assert f"run: {tmp_path / 'run'}" in done.stdout
    assert mlflow_runs(tmp_path) == ["FINISHED"]
