"""The cluster files are well formed, and their commands compose."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from small_config import composed

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
CONFIGS = {"launch": "config", "doctor": "doctor"}


def commands():
    """Each `python -m mtrec.<module> <arguments>` of the launch files, on one line."""
    for path in sorted(LAUNCH.iterdir()):
        text = path.read_text().replace("\\\n", " ")
        if path.suffix == ".yaml":
            text = str(yaml.safe_load(text))
        for module, rest in re.findall(r"python -m mtrec\.(\w+)((?: +[\w.]+=[^\s`',&]+)*)", text):
            yield pytest.param(module, shlex.split(rest), id=f"{path.name}: {module}")


@pytest.mark.parametrize(("module", "overrides"), commands())
def test_every_command_composes(module, overrides):
    values = {"$SLURM_JOB_NUM_NODES": "2", "$address": "head:6379", "$PWD": "/here"}
    for name, value in values.items():
        overrides = [override.replace(name, value) for override in overrides]
    overrides = [override for override in overrides if not override.startswith("hydra.")]
    config = composed(*overrides, name=CONFIGS[module])
    assert all("$" not in override for override in overrides)
    assert config.cluster.kind == ("ray" if "cluster=ray_address" in overrides else "local")


def test_no_command_is_overlooked():
    found = [command.id for command in commands()]
    text = "".join(path.read_text() for path in LAUNCH.iterdir())
    assert len(found) == text.count("python -m mtrec.")
    assert {"slurm.sbatch: launch", "kuberay-rayjob.yaml: launch", "README.md: doctor"} < set(found)


def pods():
    job = yaml.safe_load((LAUNCH / "kuberay-rayjob.yaml").read_text())
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_pods_share_one_claim_that_the_images_user_owns():
    (user,) = re.findall(r"--uid (\d+) mtrec", (LAUNCH / "Dockerfile").read_text())
    for pod in pods():
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "shared"
        ]
        assert claims == ["mtrec"]
        assert pod["securityContext"]["fsGroup"] == int(user)
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_worker_pods_have_a_gpu_each_and_the_job_a_worker_each():
    job = yaml.safe_load((LAUNCH / "kuberay-rayjob.yaml").read_text())["spec"]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert pods()[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert f"cluster.num_workers={group['replicas']}" in job["entrypoint"]


def test_the_image_copies_what_the_package_is_made_of_and_installs_extras_that_exist():
    text = (LAUNCH / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    assert copied == needed | {"pyproject.toml", *project["project"]["license-files"]}
    assert all((ROOT / name).exists() for name in copied)

    extras = project["project"]["optional-dependencies"]
    for path in LAUNCH.iterdir():
        for names in re.findall(r"\.?(?:mtrec|\.)\[([\w,]+)\]", path.read_text()):
            assert set(names.split(",")) <= extras.keys(), path
    assert "'.[gpu,cluster]'" in text


def test_the_ray_cluster_fits_rays_own_schema():
    ray = pytest.importorskip("ray")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    cluster = yaml.safe_load((LAUNCH / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> calls; fi',
    # Runs what follows its options, as on another machine.
    "srun": """echo "srun $*" >> calls
while case "$1" in -w) shift 2 ;; --*) shift ;; *) false ;; esac; do :; done
exec "$@" """,
    # The head answers at the third question.
    "ray": """echo "ray $*" >> calls
if [ "$1" = status ]; then [ "$(grep -c 'ray status' calls)" -ge 3 ]; fi""",
    "python": """if [ "$1" = -c ]; then echo 0123; exit; fi
echo "python $*" >> calls
[ -z "$HANGS" ] && exit
trap 'echo saved >> calls; exit 143' TERM
touch running
while :; do sleep 0.1; done""",
    "sleep": "exec /bin/sleep 0.1",
}


def slurm(cwd, *, hangs="", stand_ins=STAND_INS):
    """The SLURM script, started with stand-ins for what it calls."""
    (cwd / "bin").mkdir()
    (cwd / ".venv" / "bin").mkdir(parents=True)
    (cwd / ".venv" / "bin" / "activate").write_text("")
    for name, body in stand_ins.items():
        (cwd / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (cwd / "bin" / name).chmod(0o755)
    variables = {
        "PATH": f"{cwd / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "nodes",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_JOB_ID": "7",
        "HANGS": hangs,
    }
    script = LAUNCH / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    return subprocess.Popen(["bash", str(script)], cwd=cwd, env=os.environ | variables)


def calls(cwd):
    return (cwd / "calls").read_text().splitlines()


def test_the_slurm_script_waits_for_the_head_and_then_runs_the_job(tmp_path):
    assert slurm(tmp_path).wait(60) == 0
    made = calls(tmp_path)
    assert made.count("ray status --address=one:6379") == 3
    assert "ray start --head --port=6379 --block" in made
    (worker,) = (
        i for i, call in enumerate(made) if call.startswith("srun") and "--exclude" in call
    )
    assert "ray start --address=one:6379 --block" in made[worker]
    assert max(i for i, call in enumerate(made) if "ray status" in call) < worker
    (job,) = (call for call in made if call.startswith("python -m mtrec.launch"))
    assert "cluster.address=one:6379" in job
    assert "cluster.num_workers=2" in job
    assert f"hydra.run.dir={tmp_path}/outputs/slurm-7" in job
    assert "requeue 7" not in made


def test_the_slurm_script_hands_sigterm_on_and_asks_to_be_queued_again(tmp_path):
    script = slurm(tmp_path, hangs="1")
    while not (tmp_path / "running").exists():
        assert script.poll() is None
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    assert script.wait(60) == 143
    assert calls(tmp_path)[-2:] == ["saved", "requeue 7"]


def test_the_slurm_script_gives_up_when_no_head_answers(tmp_path):
    script = slurm(tmp_path, stand_ins=STAND_INS | {"ray": "exit 1"})
    assert script.wait(60) == 1
    assert not any(call.startswith("python") for call in calls(tmp_path))
