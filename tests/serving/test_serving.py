"""The logged model answers over HTTP under `mlflow models serve`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SMALL = [
    "data=synthetic",
    "data.num_users=120",
    "data.num_items=90",
    "data.num_interactions=3000",
    "train.epochs=2",
]


def mtrec(module: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", f"mtrec.{module}", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    mtrec("launch", *SMALL, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def address(workplace: Path) -> Iterator[str]:
    (model,) = (workplace / "mlruns" / "mtrec" / "models").glob("m-*")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model.name}"]
    # MLflow calls uvicorn by its name alone.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace}/mlflow.db", "PATH": path}
    with (workplace / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "-p", str(port)],
            cwd=workplace,
            env=os.environ | store,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(url)


def ask(address: str, content: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(
        address, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_the_server_recommends_what_the_command_does(workplace: Path, address: str) -> None:
    answer = ask(address, {"dataframe_records": [{"user_id": "7"}], "params": {"k": 4}})
    printed = mtrec("recommend", "user_id=7", "k=4", cwd=workplace).splitlines()[1:]
    expected = [line.split() for line in printed if line.strip()]
    assert [row["item_id"] for row in answer] == [row[1] for row in expected]
    for row, (*_, score, rating) in zip(answer, expected, strict=True):
        assert row["score"] == pytest.approx(float(score), abs=1e-4)
        assert row["rating"] == pytest.approx(float(rating), abs=1e-2)
        assert row["known"] is True


@pytest.mark.slow
def test_the_server_gives_an_unknown_user_ten_items_and_says_so(address: str) -> None:
    answer = ask(address, {"dataframe_records": [{"user_id": "nobody"}]})
    assert len(answer) == 10
    assert not any(row["known"] for row in answer)


@pytest.mark.slow
def test_the_server_answers_a_new_user_from_what_it_is_told(workplace: Path, address: str) -> None:
    told = {"user_id": "new", "history": ["3", "7"]}
    answer = ask(address, {"dataframe_records": [told], "params": {"k": 4}})
    printed = mtrec("recommend", "user_id=new", "history=[3,7]", "k=4", cwd=workplace)
    expected = [line.split()[1] for line in printed.splitlines()[2:] if line.strip()]
    assert [row["item_id"] for row in answer] == expected
    pairs = [told | {"item_id": row["item_id"]} for row in answer]
    for row, pair in zip(answer, ask(address, {"dataframe_records": pairs}), strict=True):
        assert pair["score"] == pytest.approx(row["score"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"inputs": {"user_id": ["42"]}}, "user_id must be one string a row"),
        ({"dataframe_records": [{"user_id": None}]}, "a row must hold a user_id"),
        ({"dataframe_records": [{"user_id": "7", "usr": "7"}]}, "model's signature alone"),
        ({"dataframe_records": [{"history": ["none"]}]}, "items of the catalogue; got none"),
    ],
)
def test_the_server_refuses_what_does_not_fit(
    address: str, content: dict[str, object], sentence: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, content)
    assert refused.value.code == 400
    assert sentence in json.loads(refused.value.read())["message"]
