"""From data frames to recommendations, as docs/extending.md shows it."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mtrec
from mtrec.data.files import Files
from mtrec.errors import UserError
from mtrec.jobs import main_job, notebook

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
EXAMPLE = re.search(r"```python\n(import pandas.*?)```", PAGE.read_text(), re.DOTALL)[1]


def rated() -> pd.DataFrame:
    """2,000 ratings of 60 users, who like films of their own parity."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"userId": rng.integers(1, 61, 2000), "movieId": rng.integers(1, 81, 2000)}
    ).drop_duplicates()
    alike = (rows["userId"] + rows["movieId"]) % 2 == 0
    return rows.assign(rating=np.where(alike, 5.0, 2.0), timestamp=1_600_000_000 + rows.index)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory):
    """What the example leaves behind it, in a directory in which its files are gone."""
    folder = tmp_path_factory.mktemp("notebook")
    rated().to_csv(folder / "ratings.csv", index=False)
    films = pd.DataFrame({"movieId": range(1, 81), "title": [f"film {i}" for i in range(1, 81)]})
    films.to_csv(folder / "movies.csv", index=False)
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MTREC_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        exec(compile(EXAMPLE, "docs/extending.md", "exec"), names)
    for name in ("ratings.csv", "movies.csv"):
        (folder / name).unlink()
    return names | {"folder": folder}


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        (rated(), {"overrides": "task=retrieval"}, r"`overrides` must be a list; got task=retrie"),
        (rated(), {"overrides": ["train.epoch=3"]}, r"Did you mean train\.epochs\?"),
        (rated(), {"colour": "x"}, r"data\.colour is no option"),
        (
            rated(),
            {"directory": "/proc/x"},
            r"`directory` must be one that can be made; got /proc/x",
        ),
        (rated()["rating"], {}, "interactions must be a"),
        (None, {}, "interactions must be a data frame of pandas or Polars or a table"),
        (rated(), {"overrides": ["cluster=ray_address"]}, r"cluster\.address must be given"),
        (pd.concat([rated(), rated()], axis=1), {}, "got: Duplicate column names found"),
        (rated().astype({"rating": object}).replace(5.0, "good"), {}, "got: .*Could not convert"),
    ],
)
def test_a_wrong_call_is_refused_in_a_sentence_before_it_costs(
    monkeypatch, tmp_path, frame, options, sentence
):
    monkeypatch.setenv("MTREC_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence) as refused:
        mtrec.fit(frame, **options)
    assert len(str(refused.value).splitlines()) == 1


def test_a_job_is_not_billed_for_what_the_notebook_did_before(monkeypatch, tmp_path):
    monkeypatch.setenv("MTREC_CACHE", str(tmp_path))
    began: list[float] = []
    monkeypatch.setattr(main_job, "run", lambda _, **given: began.append(given["began"]))
    now = time.time()
    mtrec.fit(rated(), user_key="userId", item_key="movieId", directory=tmp_path / "run")
    assert began[0] >= now


def test_ten_lines_lead_from_frames_to_titles_that_the_user_does_not_have(shown):
    assert len([line for line in EXAMPLE.splitlines() if line]) <= 10
    answer = shown["run"].recommend(42, k=10)
    assert len(answer) == 10
    ratings = rated()
    had = {f"film {item}" for item in ratings["movieId"][ratings["userId"] == 42]}
    assert not had & set(answer["title"])
    assert answer["score"].is_monotonic_decreasing
    assert answer["rating"].between(2, 5).all()


def test_evaluate_is_a_frame_of_what_the_job_measured(shown):
    metrics = json.loads((shown["folder"] / "my-run" / "metrics.json").read_text())
    table = shown["run"].evaluate()
    for column, split in (("validation", "val"), ("test", "test"), ("baseline", "baseline/test")):
        assert table[column]["rating/rmse"] == metrics[f"{split}/rating/rmse"]


def test_figures_show_themselves(shown):
    run = shown["run"]
    assert {"loss_curves", "recall_curve", "calibration"} <= set(run.figures)
    pictures = run._repr_html_().count('src="data:image/png;base64,iVBOR')
    assert pictures == len(run.figures)


def test_a_run_is_opened_again_by_its_id_with_the_data_gone(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_id = (shown["folder"] / "my-run" / "mlflow_run_id").read_text()
    again = mtrec.open_run(run_id)
    assert again.directory == shown["folder"] / "my-run"
    pd.testing.assert_frame_equal(again.recommend(7), shown["run"].recommend(7))


def test_frames_of_any_kind_are_one_table_without_row_labels():
    frame = rated()

    class Foreign:
        """A frame that only says what it holds, as one of Polars does."""

        def __arrow_c_stream__(self, requested_schema=None):
            return pa.Table.from_pandas(frame, preserve_index=False).__arrow_c_stream__()

    table = pa.Table.from_pandas(frame, preserve_index=False)
    assert table.column_names == list(frame.columns)
    for given in (frame, table, Foreign()):
        assert notebook._table("interactions", given).equals(table)
    with pytest.raises(UserError, match="items must be a data frame of pandas or Polars"):
        notebook._table("items", [1, 2])


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "null"), ("my id", "'my id'"), (["a,b", "c"], "['a,b','c']"), ([1.0, 5], "[1.0,5]")],
)
def test_options_are_said_as_on_the_command_line(value, said):
    assert notebook._override("x", value) == f"data.x={said}"


def test_categories_of_any_kind_of_text_become_text(tmp_path, monkeypatch):
    monkeypatch.setenv("MTREC_CACHE", str(tmp_path))
    words = pa.array(["a", "b"]).cast(pa.string_view())
    codes = pa.array([1, 0, None, 1], pa.uint32())
    frame = pa.table({"kind": pa.DictionaryArray.from_arrays(codes, words), "n": [1, 2, 3, 4]})

    files = notebook._written({"items": notebook._table("items", frame)})

    kept = pq.read_table(files["items"]).to_pydict()
    assert kept == {"kind": ["b", "a", None, "b"], "n": [1, 2, 3, 4]}


def test_frames_of_polars_are_read_whatever_their_columns_are(tmp_path, monkeypatch):
    pl = pytest.importorskip("polars")
    monkeypatch.setenv("MTREC_CACHE", str(tmp_path))
    columns = {
        "id": ["ü", "b"],
        "kind": pl.Series(["e", None], dtype=pl.Categorical),
        "level": pl.Series(["low", "high"], dtype=pl.Enum(["low", "high"])),
        "tags": [["x"], ["y", "z"]],
        "vector": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
        "price": pl.Series(["1.5", "2.25"]).cast(pl.Decimal(10, 2)),
    }

    files = notebook._written({"items": notebook._table("items", pl.DataFrame(columns))})
    found = Files.of(files["items"], option="items").whole()
    read = found.features(without="id", texts=[], bags=[], separator="|")

    assert found.ids("id", named_by="item_key").to_pylist() == ["ü", "b"]
    assert {name: read[name].tolist() for name in read} == {
        "kind": ["e", ""],
        "level": ["low", "high"],
        "tags": [["x"], ["y", "z"]],
        "vector": [[1, 2], [3, 4]],
        "price": [1.5, 2.25],
    }
