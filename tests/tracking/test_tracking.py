import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mtrec.data.dataset import Dataset
from mtrec.errors import UserError
from mtrec.tracking import finished, mlflow_client, mlflow_run, ui
from mtrec.tracking.outbox import Outbox
from mtrec.tracking.records import dataset_record, flatten, model_record
from mtrec.tracking.store import resolve_uri

UNREACHABLE = "http://127.0.0.1:9"

MODEL_CODE = """
from pathlib import Path

import mlflow
import pandas as pd

class Greeter(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.greeting = Path(context.artifacts["words"], "greeting.txt").read_text()

    def predict(self, context, model_input, params=None):
        words = [f"{self.greeting}{user}{params['mark']}" for user in model_input["user_id"]]
        return pd.DataFrame({"title": words})

mlflow.models.set_model(Greeter())
"""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store without runs, made once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    mlflow_client.connect(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of its own in the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_store_that_was_not_made_to_its_end_is_not_there(monkeypatch, tmp_path):
    from mlflow.store.db import utils

    def interrupted(engine):
        utils.InitialBase.metadata.create_all(engine)
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_initialize_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mlflow_client.connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.iterdir())


def test_a_store_is_made_without_a_word_of_mlflow_s_own(caplog, tmp_path):
    import mlflow

    logger = mlflow.store.db.utils._logger
    before = logger.level
    logger.setLevel("INFO")
    try:
        mlflow_client.connect(f"sqlite:///{tmp_path}/mlflow.db")
    finally:
        logger.setLevel(before)
    assert caplog.messages == []


def test_a_store_that_another_job_made_meanwhile_is_kept(monkeypatch, tmp_path, empty_store):
    from mlflow.store.db import utils

    def late(engine):
        Path(engine.url.database).write_bytes(b"mine")
        shutil.copy(empty_store, tmp_path / "mlflow.db")

    monkeypatch.setattr(utils, "_initialize_tables", late)
    mlflow_client.connect(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def start(run_dir: Path, *, uri: str | None = None, run_id: str | None = None, **params: object):
    run_dir.mkdir(parents=True, exist_ok=True)
    tracker = mlflow_run.tracker(uri=uri, run_dir=run_dir, run_id=run_id)
    tracker.begin(experiment="films", run_name="joint", params=params, tags={"task": "joint"})
    return tracker


def run_id_of(run_dir: Path) -> str:
    return (run_dir / "mlflow_run_id").read_text()


def run_of(run_dir: Path, store: str):
    return mlflow_client.connect(store).get_run(run_id_of(run_dir))


def history_of(run_dir: Path, store: str, key: str) -> list[tuple[int, float]]:
    history = mlflow_client.connect(store).get_metric_history(run_id_of(run_dir), key)
    return sorted((metric.step, metric.value) for metric in history)


def artifacts_of(run_dir: Path, store: str) -> Path:
    return Path(run_of(run_dir, store).info.artifact_uri.removeprefix("file://"))


def small_dataset() -> Dataset:
    return Dataset(
        name="three_ratings",
        users={"user_id": np.array(["", "7", "8"]), "age": np.array([np.nan, 20, 30])},
        items={
            "movie_id": np.array(["", "1"]),
            "genres": np.array([["", ""], ["Drama", "War"]]),
        },
        interactions={
            "user": np.array([1, 2, 1], np.int32),
            "item": np.array([1, 1, 1], np.int32),
            "rating": np.array([1, 2, 3], np.float32),
            "timestamp": np.array([10, 20, 30]),
        },
        user_key="user_id",
        item_key="movie_id",
        title="movie_id",
        rating_scale=(1, 5),
        source="a table in a test",
        digest="0123456789" * 6,
    )


def finished_run(run_dir: Path, **options: str) -> Path:
    tracker = start(run_dir, **options)
    (run_dir / "config.yaml").write_text("seed: 0\n")
    (run_dir / "metrics.json").write_text("{}")
    tracker.finish("FINISHED")
    return run_dir


def test_importing_the_door_to_mlflow_does_not_import_mlflow() -> None:
    code = (
        "import sys, mtrec.tracking.mlflow_run\n"
        "print('mlflow' in sys.modules, 'pandas' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["False", "False"]


def test_the_default_store_is_the_file_that_mlflow_opens_in_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking._tracking_service.utils import _get_default_tracking_uri

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(_get_default_tracking_uri()) == resolve_uri(None)


def test_a_tracking_uri_that_mlflow_would_refuse_is_a_mistake_with_a_remedy() -> None:
    assert resolve_uri("https://host/mlflow") == "https://host/mlflow"
    for uri in ("mlruns", "/shared/mlruns", "file:///shared/mlruns"):
        with pytest.raises(UserError, match=r"tracking\.uri=sqlite:////"):
            resolve_uri(uri)


def test_a_run_has_its_params_metrics_tags_note_and_end(store: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "outputs" / "a"
    many = {f"option_{number}": number for number in range(250)}
    tracker = start(run_dir, train={"epochs": 3, "resume": False}, text="x" * 7000, **many)
    tracker.log_metrics({"val/rating/rmse": np.float64(0.5), "train/loss": 4.0}, step=1)
    tracker.log_metrics({"val/rating/rmse": 0.25, "train/loss": float("nan")}, step=2)
    tracker.log_metrics({"test/rating/rmse/genre/Children's @home": 1.0}, step=2)
    tracker.set_note("**good**")
    assert run_of(run_dir, store).info.status == "RUNNING"
    tracker.finish("FINISHED")

    run = run_of(run_dir, store)
    assert run.info.run_name == "joint"
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.params["train.epochs"] == "3"
    assert run.data.params["train.resume"] == "false"
    assert run.data.params["option_249"] == "249"
    assert run.data.params["text"] == "x" * 6000
    assert run.data.tags["task"] == "joint"
    assert run.data.tags["mtrec.tracking.run_dir"] == str(run_dir)
    assert run.data.tags["mlflow.note.content"] == "**good**"
    assert history_of(run_dir, store, "val/rating/rmse") == [(1, 0.5), (2, 0.25)]
    assert history_of(run_dir, store, "train/loss") == [(1, 4.0)]
    assert run.data.metrics["test/rating/rmse/genre/Children_s _home"] == 1.0
    assert tracker.unsent == 0
    assert not (run_dir / "mlflow_unsent.jsonl").exists()


def test_telemetry_and_what_has_one_value_a_run_are_named_with_dots_and_found_by_their_own_names(
    store: str, tmp_path: Path
) -> None:
    tracker = start(tmp_path / "a")
    epoch = {"val/r/rmse": 0.5, "train/r/loss": 2.0, "train/r/gate/q/0": 0.25, "train/seconds": 9}
    tracker.log_metrics(epoch, step=1)
    tracker.log_metrics({"val/r/rmse": 0.625}, step=2)
    tracker.log_metrics({"test/r/rmse": 0.75}, step=0)
    tracker.log_summary({"val/r/rmse": 0.5, "baseline/test/r/rmse": 1.0})
    tracker.finish("FINISHED")

    charts = {"val/r/rmse": 0.625, "train/r/loss": 2.0, "test/r/rmse": 0.75}
    last = {"train.r.gate.q.0": 0.25, "train.seconds": 9}
    last |= {"val.r.rmse": 0.5, "baseline.test.r.rmse": 1.0}
    logged = run_of(tmp_path / "a", store).data.metrics
    assert {k: v for k, v in logged.items() if not k.startswith("system/")} == charts | last
    (run,) = finished.finished_runs("films", uri=store)
    assert run.metrics["baseline/test/r/rmse"] == 1.0
    assert run.metrics["test/r/rmse"] == 0.75
    # Of the epoch that was selected, not of the last.
    assert run.metrics["val/r/rmse"] == 0.5


def test_the_page_of_a_run_opens_in_the_view_for_model_training(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start(tmp_path / "a")
    about = mlflow_client.connect(store).get_experiment_by_name("films")
    place = f"#/experiments/{about.experiment_id}/runs/{run_id_of(tmp_path / 'a')}"
    path = f"http://127.0.0.1:5000/{place}?workflowType=machine_learning"
    assert ui.how_to_open(tmp_path / "a", None) == f"mlflow ui, then {path}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    serve = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert ui.how_to_open(tmp_path / "a", store) == f"{serve}, then {path}"
    unheard = start(tmp_path / "b", uri=UNREACHABLE).run_dir
    assert ui.how_to_open(unheard, UNREACHABLE) == (
        f"{UNREACHABLE}/#/experiments?workflowType=machine_learning"
    )
    assert "python -m mtrec.compare experiment=films" in about.tags["mlflow.note.content"]
    tracker.finish("FINISHED")


def test_artifacts_lie_beside_the_store_and_in_the_run_directory(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_dir = tmp_path / "outputs" / "a"
    tracker = start(run_dir, uri=store)
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    tracker.log_figure(figure, "losses")
    tracker.log_text("head, tail", "tables/slices.md")
    (run_dir / "index" / "deep").mkdir(parents=True)
    (run_dir / "index" / "deep" / "ids.txt").write_text("1")
    tracker.log_file(run_dir / "index", "index")
    tracker.finish("FINISHED")

    logged = artifacts_of(run_dir, store)
    assert logged.is_relative_to(tmp_path / "mlruns")
    for place in (run_dir, logged):
        assert (place / "figures" / "losses.png").read_bytes().startswith(b"\x89PNG")
        assert (place / "tables" / "slices.md").read_text() == "head, tail"
        assert (place / "index" / "deep" / "ids.txt").read_text() == "1"


def test_the_dataset_of_a_run_carries_digest_source_schema_and_split_counts(
    store: str, tmp_path: Path
) -> None:
    tracker = start(tmp_path / "a")
    tracker.log_dataset(small_dataset(), split_counts={"train": 2, "test": 1})
    tracker.finish("FINISHED")

    (used,) = run_of(tmp_path / "a", store).inputs.dataset_inputs
    tags = {tag.key: tag.value for tag in used.tags}
    assert used.dataset.name == "three_ratings"
    assert used.dataset.digest == "012345678901234567890123456789012345"
    assert "a table in a test" in used.dataset.source
    assert json.loads(used.dataset.profile)["num_rows"] == 3
    assert json.loads(used.dataset.profile)["num_users"] == 2
    assert tags["mtrec.rows.train"] == "2"
    assert tags["mtrec.rows.test"] == "1"


def test_the_schema_of_a_dataset_is_one_that_mlflow_reads() -> None:
    from mlflow.types import Schema

    record = dataset_record(small_dataset(), split_counts={})
    columns = json.loads(record["dataset"]["schema"])["mlflow_colspec"]
    schema = Schema.from_json(json.dumps(columns))
    types = dict(zip(schema.input_names(), map(str, schema.input_types()), strict=True))
    assert types["interactions.rating"] == "DataType.double"
    assert types["interactions.user"] == "DataType.long"
    assert types["users.user_id"] == "DataType.string"
    assert types["items.genres"] == "Array(string)"


def log_greeter(tracker):
    run_dir = tracker.run_dir
    record = model_record(
        name="greeter: 1.0",
        description="**greets**",
        code_path=run_dir / "code.py",
        artifacts={"words": run_dir / "words"},
        inputs={"user_id": "any"},
        outputs={"title": "string"},
        params={"mark": "."},
        input_example=pd.DataFrame({"user_id": ["42"]}),
        pip_requirements=["pandas"],
    )
    return tracker.log_model(record)


def test_a_resumed_job_logs_its_model_once(store: str, tmp_path: Path) -> None:
    client = mlflow_client.connect(store)
    first = start(tmp_path / "a")
    (tmp_path / "a" / "words").mkdir()
    (tmp_path / "a" / "words" / "greeting.txt").write_text("hello ")
    (tmp_path / "a" / "code.py").write_text(MODEL_CODE)
    run_id = run_id_of(tmp_path / "a")
    experiment = run_of(tmp_path / "a", store).info.experiment_id
    # The job was killed while it sent its model, and, gone on, once more after it had sent it.
    client.create_logged_model(experiment, "greeter_ 1_0", run_id)
    client.create_logged_model(experiment, "greeter_ 1_0", start(tmp_path / "b").run_dir.name)
    address = log_greeter(start(tmp_path / "a", run_id=run_id))
    assert log_greeter(start(tmp_path / "a", run_id=run_id)) == address

    models = client.search_logged_models([experiment])
    mine = [model for model in models if model.source_run_id == run_id]
    assert [f"models:/{model.model_id}" for model in mine] == [address]
    assert len(models) == 2
    first.finish("FINISHED")


def test_a_logged_model_answers_and_shows_the_test_metrics(store: str, tmp_path: Path) -> None:
    import mlflow

    run_dir = tmp_path / "a"
    tracker = start(run_dir)
    tracker.log_dataset(small_dataset(), split_counts={})
    tracker.log_metrics({"test/rating/rmse": 0.9, "val/rating/rmse": 0.8}, step=3)
    (run_dir / "words").mkdir()
    (run_dir / "words" / "greeting.txt").write_text("hello ")
    (run_dir / "code.py").write_text(MODEL_CODE)
    address = log_greeter(tracker)
    tracker.finish("FINISHED")

    assert address is not None
    logged = mlflow_client.connect(store).get_logged_model(address.removeprefix("models:/"))
    assert logged.source_run_id == run_id_of(run_dir)
    assert (logged.name, logged.tags["mlflow.note.content"]) == ("greeter_ 1_0", "**greets**")
    (shown,) = logged.metrics
    assert (shown.key, shown.value) == ("test/rating/rmse", 0.9)
    assert (shown.dataset_name, shown.dataset_digest) == ("three_ratings", ("0123456789" * 4)[:36])
    assert history_of(run_dir, store, "test/rating/rmse") == [(3, 0.9)]
    # MLflow shows a hint about type hints whatever the filters are.
    with warnings.catch_warnings(record=True):
        model = mlflow.pyfunc.load_model(logged.artifact_location)
    users = pd.DataFrame({"user_id": ["7", "8"]})
    assert model.predict(users)["title"].tolist() == ["hello 7.", "hello 8."]
    assert model.predict(users, params={"mark": "!"})["title"].tolist() == ["hello 7!", "hello 8!"]
    assert model.predict(pd.DataFrame({"user_id": [7]}))["title"].tolist() == ["hello 7."]
    assert model.metadata.signature.inputs.input_names() == ["user_id"]
    assert model.metadata.signature.outputs.input_names() == ["title"]


def test_system_metrics_of_the_machine_are_logged_after_the_first_of_the_job_until_it_ends(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "_SAMPLING_SECONDS", 0.05)
    monkeypatch.setattr(mlflow_run, "_SAMPLES", 1)
    tracker = start(tmp_path / "a")
    key = "system/cpu_utilization_percentage"
    time.sleep(0.5)
    assert not history_of(tmp_path / "a", store, key)
    tracker.log_metrics({"val/rating/rmse": 1.0}, step=1)
    give_up = time.monotonic() + 20
    while len(history_of(tmp_path / "a", store, key)) < 2 and time.monotonic() < give_up:
        time.sleep(0.1)
    tracker.finish("FINISHED")
    assert [step for step, _ in history_of(tmp_path / "a", store, key)][:2] == [0, 1]


def test_a_resumed_run_goes_on_and_logs_nothing_twice(store: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    killed = start(run_dir, seed=1, epochs=2)
    killed.log_metrics({"train/loss": 3.0}, step=1)
    killed.log_metrics({"train/loss": 2.0}, step=2)
    first_id = run_id_of(run_dir)

    resumed = start(run_dir, run_id=first_id, seed=1, epochs=5, new=True)
    resumed.log_metrics({"train/loss": 2.5}, step=2)
    resumed.log_metrics({"train/loss": 1.0}, step=3)
    resumed.finish("FINISHED")

    run = run_of(run_dir, store)
    assert run_id_of(run_dir) == first_id
    assert history_of(run_dir, store, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert run.data.params == {"seed": "1", "epochs": "2", "new": "true"}
    assert run.info.status == "FINISHED"


def test_what_an_unreachable_server_missed_is_kept_told_once_and_sent_later(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "a"
    offline = start(run_dir, uri=UNREACHABLE, seed=1)
    offline.log_metrics({"train/loss": 3.0}, step=1)
    offline.log_text("words", "notes.md")
    offline.log_dataset(small_dataset(), split_counts={"train": 3})
    offline.finish("FINISHED")

    kept = (run_dir / "mlflow_unsent.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in kept] == [
        "run",
        "params",
        "metrics",
        "artifact",
        "dataset",
        "status",
    ]
    assert offline.unsent == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert "Connection refused" in line
    assert str(run_dir / "mlflow_unsent.jsonl") in line

    assert mlflow_run.resend(run_dir, store) == 0
    assert mlflow_run.resend(run_dir, store) == 0
    run = run_of(run_dir, store)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == json.loads(kept[-1])["time"]
    assert run.data.params == {"seed": "1"}
    assert run.data.tags["mtrec.tracking.run_dir"] == str(run_dir)
    assert history_of(run_dir, store, "train/loss") == [(1, 3.0)]
    assert (artifacts_of(run_dir, store) / "notes.md").read_text() == "words"
    assert len(run.inputs.dataset_inputs) == 1
    assert not (run_dir / "mlflow_unsent.jsonl").exists()


def test_sending_again_what_had_arrived_logs_no_metric_twice(store: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    tracker = start(run_dir, uri=store)
    tracker.log_metrics({"train/loss": 3.0}, step=1)
    tracker.finish("FINISHED")
    # The answer to step 1 was lost, and the time in the record is another than the stored one.
    lost = {"kind": "metrics", "step": 1, "time": 5, "metrics": {"train/loss": 3.0}}
    fresh = {"kind": "metrics", "step": 2, "time": 6, "metrics": {"train/loss": 2.0}}
    lines = f"{json.dumps(lost)}\n{json.dumps(fresh)}\n" + '{"kind": "metr'
    (run_dir / "mlflow_unsent.jsonl").write_text(lines)

    assert mlflow_run.resend(run_dir, store) == 0
    assert history_of(run_dir, store, "train/loss") == [(1, 3.0), (2, 2.0)]


def test_a_job_resumed_after_it_never_reached_mlflow_becomes_one_whole_run(
    store: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "a"
    start(run_dir, uri=UNREACHABLE).log_metrics({"train/loss": 3.0}, step=1)
    resumed = start(run_dir, uri=store, run_id=run_id_of(run_dir))
    resumed.log_metrics({"train/loss": 2.0}, step=2)
    resumed.finish("FAILED")

    assert history_of(run_dir, store, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert run_of(run_dir, store).info.status == "FAILED"


def test_a_new_run_in_an_old_run_directory_forgets_what_the_old_one_had_not_sent(
    store: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "a"
    start(run_dir, uri=UNREACHABLE).log_metrics({"train/loss": 3.0}, step=1)
    fresh = start(run_dir)
    fresh.log_metrics({"train/loss": 1.0}, step=1)
    fresh.finish("FINISHED")
    assert history_of(run_dir, store, "train/loss") == [(1, 1.0)]


def test_a_database_that_cannot_be_opened_does_not_stop_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracker = start(tmp_path / "a", uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    tracker.finish("FINISHED")
    assert tracker.unsent == 3


def test_a_record_that_is_refused_holds_up_no_other(store: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    tracker = start(run_dir)
    tracker.log_file(tmp_path / "missing.txt", "")
    tracker.log_metrics({"train/loss": 3.0}, step=1)
    assert history_of(run_dir, store, "train/loss") == [(1, 3.0)]
    assert tracker.unsent == 1
    (tmp_path / "missing.txt").write_text("late")
    tracker.finish("FINISHED")
    assert (artifacts_of(run_dir, store) / "missing.txt").read_text() == "late"
    assert tracker.unsent == 0


def test_a_deleted_experiment_is_a_mistake_with_a_remedy(store: str, tmp_path: Path) -> None:
    start(tmp_path / "a").finish("FINISHED")
    client = mlflow_client.connect(store)
    client.delete_experiment(client.get_experiment_by_name("films").experiment_id)
    with pytest.raises(UserError, match=r"mlflow experiments restore -x \d+"):
        start(tmp_path / "b")


def test_latest_is_the_last_finished_run_whose_directory_is_there(
    store: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="`run`=latest needs a finished job"):
        finished.find_run("latest", uri=None)
    finished_run(tmp_path / "old")
    time.sleep(0.01)
    newest = finished_run(tmp_path / "new")
    time.sleep(0.01)
    failed = start(tmp_path / "failed")
    (tmp_path / "failed" / "metrics.json").write_text("{}")
    failed.finish("FAILED")
    time.sleep(0.01)
    shutil.rmtree(finished_run(tmp_path / "gone"))
    assert finished.find_run("latest", uri=store) == newest


@pytest.mark.parametrize("name", ["get_experiment_by_name", "create_run", "log_batch"])
def test_a_run_whose_making_is_interrupted_is_made_and_killed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    client = mlflow_client.connect(store)
    original = getattr(type(client), name)
    tracker = mlflow_run.tracker(uri=store, run_dir=tmp_path, run_id=None)

    def interrupted(*args, **kwargs):
        patch.undo()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # the caller is gone
        return original(*args, **kwargs)

    # What a shell starts in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(type(client), name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            tracker.begin(experiment="films", run_name="joint", params={"a": 1}, tags={})
        tracker.finish("KILLED")
    signal.signal(signal.SIGINT, before)
    assert run_of(tmp_path, store).info.status == "KILLED"
    assert tracker.unsent == 0


def test_a_job_that_is_stopped_before_it_has_a_run_says_nothing_to_mlflow(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = mlflow_run.tracker(uri=store, run_dir=tmp_path, run_id=None)
    tracker.finish("KILLED")
    assert (tracker.unsent, capsys.readouterr().err) == (0, "")


def test_finished_runs_have_their_choices_and_files_and_reports_are_none_of_them(
    store: str, tmp_path: Path
) -> None:
    for name, tag in (("job", "mtrec.choice.balance"), ("page", mlflow_run.REPORT_TAG)):
        (tmp_path / name).mkdir()
        tracker = mlflow_run.tracker(uri=store, run_dir=tmp_path / name, run_id=None)
        tracker.begin(experiment="films", run_name=name, params={"seed": 3}, tags={tag: "famo"})
        tracker.log_text("of each user", "users.txt")
        tracker.log_text("deeper", "folder/other.txt")
        tracker.finish("FINISHED")
    (found,) = finished.finished_runs("films", uri=store)
    assert (found.name, found.choices, found.params) == ("job", {"balance": "famo"}, {"seed": "3"})
    users = finished.artifact(found.run_id, "users.txt", uri=store)
    assert users is not None
    assert users.read_text() == "of each user"
    assert finished.artifact(found.run_id, "other.txt", uri=store) is None


def test_a_run_is_found_by_its_mlflow_id_from_anywhere_and_by_its_directory(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = finished_run(tmp_path / "outputs" / "a")
    assert finished.find_run(run_id_of(run_dir), uri=None) == run_dir
    assert finished.find_run("outputs/a", uri=None) == run_dir
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path / "elsewhere")
        assert finished.find_run(run_id_of(run_dir), uri=None) == run_dir
        # Another user of the store has no note of where the run is.
        elsewhere.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        with pytest.raises(UserError, match="does not exist"):
            finished.find_run(run_id_of(run_dir), uri=None)
        assert finished.find_run(run_id_of(run_dir), uri=store) == run_dir
    with pytest.raises(UserError, match="could not be looked up"):
        finished.find_run("0" * 32, uri=None)
    with pytest.raises(UserError, match=r"outputs is not a run directory \(no config.yaml\)"):
        finished.find_run("outputs", uri=None)
    with pytest.raises(UserError, match="nowhere is not a run directory"):
        finished.find_run("nowhere", uri=None)


def test_a_store_that_does_not_answer_is_a_mistake_with_a_remedy() -> None:
    away = "http://127.0.0.1:9"
    for look in (
        lambda: finished.finished_runs("films", uri=away),
        lambda: finished.artifact("0" * 32, "users.txt", uri=away),
        lambda: finished.find_run("latest", uri=away),
    ):
        with pytest.raises(UserError, match=r"could not be looked up in MLflow at http://127.*\. "):
            look()


def test_looking_for_the_latest_run_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="does not exist"):
        finished.find_run("latest", uri=None)
    assert list(tmp_path.iterdir()) == []


def test_a_flat_config_reads_like_the_command_line() -> None:
    config = {"a": {"b": {"c": None}, "d": True}, "list": [1, {"x": "é"}], "text": "1", "e": {}}
    assert flatten(config) == {
        "a.b.c": "null",
        "a.d": "true",
        "list": '[1, {"x": "\\u00e9"}]',
        "text": "1",
        "e": "{}",
    }


def test_an_outbox_waits_longer_each_time_before_it_tries_an_absent_server_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    tries: list[float] = []

    def deliver(record: dict[str, int]) -> None:
        tries.append(now)
        raise ConnectionError("away")

    monkeypatch.setattr(time, "monotonic", lambda: now)
    outbox = Outbox(tmp_path / "waiting", server="it", deliver=deliver, answers=lambda: False)
    for second in range(0, 200, 10):
        now = float(second)
        outbox.send({"second": second})
    # At once, 30 s later, 60 s after that; the next would be at 210 s.
    assert tries == [0.0, 30.0, 90.0]
    assert [record["second"] for record in outbox.records] == list(range(0, 200, 10))


def test_an_outbox_delivers_in_order_once_the_server_is_back(tmp_path: Path) -> None:
    up = False
    delivered: list[int] = []

    def deliver(record: dict[str, int]) -> None:
        if not up:
            raise ConnectionError("away")
        delivered.append(record["number"])

    outbox = Outbox(tmp_path / "waiting", server="it", deliver=deliver, answers=lambda: up)
    outbox.send({"number": 1})
    outbox.send({"number": 2})
    up = True
    again = Outbox(tmp_path / "waiting", server="it", deliver=deliver, answers=lambda: up)
    again.send({"number": 3})
    assert delivered == [1, 2, 3]
    assert not (tmp_path / "waiting").exists()
