"""The cluster files are well formed, and their commands compose."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from small_config import composed

LAUNCH = Path(__file__).resolve().parent.parent / "launch"


def job():
    return yaml.safe_load((LAUNCH / "kuberay-rayjob.yaml").read_text())


def sbatch_command():
    text = (LAUNCH / "slurm.sbatch").read_text().replace("\\\n", " ")
    return next(line for line in text.splitlines() if "mtrec.launch" in line)


@pytest.mark.parametrize("make", [sbatch_command, lambda: job()["spec"]["entrypoint"]])
def test_the_command_inside_composes(make):
    words = shlex.split(make().replace("$SLURM_JOB_NUM_NODES", "2").replace("$address", "head:1"))
    overrides = words[words.index("mtrec.launch") + 1 :]
    config = composed(*(o for o in overrides if not o.startswith("hydra.")))
    assert (config.cluster.kind, config.cluster.num_workers, config.cluster.use_gpu) == (
        "ray", 2, True,
    )  # fmt: skip


def test_the_ray_job_shares_one_claim_and_its_workers_have_gpus():
    spec = job()["spec"]["rayClusterSpec"]
    head, worker = spec["headGroupSpec"], spec["workerGroupSpecs"][0]
    pods = [group["template"]["spec"] for group in (head, worker)]
    assert {p["volumes"][0]["persistentVolumeClaim"]["claimName"] for p in pods} == {"mtrec"}
    assert pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_slurm_script_is_valid_bash():
    subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sbatch")], check=True)


def test_the_image_copies_files_that_exist():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert "FROM python:3.12-slim" in lines
    for line in lines:
        if line.startswith("COPY"):
            assert all((LAUNCH.parent / name).exists() for name in line.split()[1:-1])


def test_the_ray_cluster_fits_rays_own_schema():
    ray = pytest.importorskip("ray")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((LAUNCH / "ray-cluster.yaml").read_text()), schema)
