"""The commands as a user runs them, on a small synthetic catalogue."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import called

SMALL = [
    "data=synthetic",
    "data.num_users=120",
    "data.num_items=90",
    "data.num_interactions=3000",
    "train.epochs=2",
]


def command(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", f"mtrec.{module}", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def job(workplace: Path) -> subprocess.CompletedProcess[str]:
    done = command("launch", "task=joint", *SMALL, cwd=workplace)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run_dir(job: subprocess.CompletedProcess[str]) -> Path:
    last = job.stdout.rstrip().splitlines()[-1]
    assert last.startswith("run: /")
    return Path(last.removeprefix("run: "))


def test_the_main_job_leaves_what_the_contract_names(run_dir: Path) -> None:
    names = {path.name for path in run_dir.iterdir()}
    wanted = {"config.yaml", "metrics.json", "checkpoints", "model", "index", "mlflow_run_id"}
    wanted |= {"evaluation_users.parquet", "data.html"}
    assert wanted <= names
    manifest = json.loads((run_dir / "index" / "manifest.json").read_text())
    assert manifest["catalogue_size"] == 90
    assert len(manifest["digest"]) == 64
    assert (run_dir / "model" / "saved_model.pb").is_file()


def test_metrics_have_the_names_of_the_contract_and_a_baseline_beside_each(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    retrieval = [f"recall_at_{k}" for k in (1, 5, 10, 20, 50, 100)]
    retrieval += ["ndcg_at_10", "ndcg_at_20", "mrr", "hit_rate_at_10"]
    retrieval += ["coverage_at_10", "popularity_at_10"]
    retrieval += [f"factorized_top_{k}" for k in (1, 5, 10, 50, 100)]
    for split in ("val", "test"):
        for head, names in (("retrieval", retrieval), ("rating", ["rmse", "mae", "rmse_clipped"])):
            for name in names:
                key = f"{split}/{head}/{name}"
                assert isinstance(metrics[key], float), key
                assert isinstance(metrics[f"baseline/{key}"], float), key


def test_recommend_prints_ten_titles_the_user_does_not_have(workplace: Path, run_dir: Path) -> None:
    done = command("recommend", "run=latest", "user_id=7", cwd=workplace)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:] if line.strip()]
    assert [row[0] for row in rows] == [str(place) for place in range(1, 11)]
    assert len({row[1] for row in rows}) == 10
    assert all(1 <= float(row[-1]) <= 5 for row in rows)
    scores = [float(row[-2]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_recommend_serves_an_unknown_user_from_a_history_and_says_so(
    workplace: Path, run_dir: Path
) -> None:
    done = called(
        "recommend", f"run={run_dir}", "user_id=nobody", "history=[3,4]", "k=88", cwd=workplace
    )
    assert done.returncode == 0, done.stderr
    assert "'nobody' is not known to the model; serving from a history of 2 items" in done.stdout
    ids = [line.split()[1] for line in done.stdout.splitlines()[2:] if line.strip()]
    assert len(ids) == 88
    assert not {"3", "4"} & set(ids)


def test_compare_shows_the_run(workplace: Path, run_dir: Path) -> None:
    done = command("compare", "experiment=mtrec", cwd=workplace)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert f"{metrics['test/retrieval/recall_at_10']:.4f}" in done.stdout
    assert f"{metrics['test/rating/rmse']:.4f}" in done.stdout
    assert "no run of retrieval alone has the same settings" in done.stdout
    page = Path(done.stdout.rstrip().splitlines()[-1].removeprefix("report: "))
    assert page == workplace / "compare" / "mtrec" / "compare.html"
    assert f"{metrics['test/rating/rmse']:.4f}" in page.read_text()
    # The report is a run of the experiment too, and not one to compare.
    again = called("compare", "experiment=mtrec", "output=again", cwd=workplace)
    shown, once_more = (
        [line for line in said.splitlines() if not line.startswith(("see: ", "report: "))]
        for said in (done.stdout, again.stdout)
    )
    assert once_more == shown


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("launch", ["task=nothing"], "joint, rating, retrieval"),
        ("launch", ["train.epochs=0"], "train.epochs must be at least 1; got 0"),
        ("launch", ["task.weights.rating=-1"], "task.weights.rating must be a finite number"),
        ("launch", ["data=table"], "data.interactions must be given"),
        (
            "launch",
            [*SMALL, "data.split.kind=fold", "data.split.fold=9"],
            "data.split.fold must be",
        ),
        ("recommend", ["k=3"], "user_id must be given"),
        ("recommend", ["run=/", "user_id=1"], "is not a run directory"),
        ("recommend", ["run=latest", "user_id=7", "k=91"], "k must be between 1 and"),
        ("recommend", ["run=latest", "user_id=7", "k=0"], "k must be at least 1; got 0"),
        ("recommend", ["run=latest", "user_id=x", "history=[zzz]"], "'zzz' must be an item of"),
        ("compare", ["experiment=unheard"], "experiment must be one of"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_a_non_zero_status(
    module: str, arguments: list[str], sentence: str, workplace: Path, run_dir: Path
) -> None:
    done = called(module, *arguments, cwd=workplace)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_of_a_mistake_ends_so_too(tmp_path: Path) -> None:
    done = command("launch", "train.epoch=3", cwd=tmp_path)
    assert done.returncode == 1
    assert "Did you mean train.epochs?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["launch", "recommend", "compare", "doctor"])
def test_help_loads_none_of_the_heavy_libraries(module: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['mtrec.{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('mtrec.{module}', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'tensorflow', 'keras', 'ray', 'mlflow', 'scann'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    assert re.search(rf"mtrec\.{module}", done.stdout)
