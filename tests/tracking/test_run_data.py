"""A run serves the data it was trained on, and goes on with no other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_config import config_of

from mtrec.errors import UserError
from mtrec.jobs import build, stages
from mtrec.jobs.load import load
from mtrec.jobs.restore import load_run
from mtrec.serving.recommend import recommend
from mtrec.tracking import run_data, run_dir
from mtrec.training.checkpoint import Checkpoints

USERS, ITEMS, ROWS = 30, 20, 300


def log():
    """A log of `ROWS` pairs, each once, of users and items with text ids."""
    rng = np.random.default_rng(3)
    user, item = np.divmod(rng.permutation(USERS * ITEMS)[:ROWS], ITEMS)
    return pd.DataFrame(
        {
            "user_id": [f"user-{number}" for number in user],
            "item_id": [f"item-{number}" for number in item],
            "rating": rng.integers(1, 6, ROWS),
            "timestamp": np.arange(ROWS) + 1_700_000_000,
        }
    )


def config_for(file):
    return config_of(
        "data=table",
        f"data.interactions={file}",
        f"data.cache_dir={file.parent / 'cache'}",
        "train.global_batch=10",
    )


def left_by_a_job(file, directory):
    """A run directory with random weights, as a job on `file` would leave it."""
    config = config_for(file)
    dataset, parts = load(config.data)
    run_dir.save_config(config, directory)
    run_data.keep(dataset, parts, directory)
    model = build.model(config, dataset, parts.fit)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    checkpoints = Checkpoints(directory / run_dir.CHECKPOINTS, {"model": model.weights})
    checkpoints.save(1, {})
    checkpoints.select(1)


def test_row_numbers_of_the_parts_are_mapped_as_the_columns_are(tmp_path):
    log().to_csv(tmp_path / "log.csv", index=False)
    dataset, parts = load(config_for(tmp_path / "log.csv").data)
    run_data.keep(dataset, parts, tmp_path / "run")
    dataset, kept = run_data.read(tmp_path / "run")

    for name in run_data.PARTS:
        assert isinstance(getattr(kept, name), np.memmap)
        np.testing.assert_array_equal(getattr(kept, name), getattr(parts, name))
    assert isinstance(dataset.interactions["user"], np.memmap)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a log, and the directory of a run that was trained on it."""
    place = tmp_path_factory.mktemp("trained")
    log().to_csv(place / "log.csv", index=False)
    left_by_a_job(place / "log.csv", place / "run")
    return place / "log.csv", place / "run"


def changed(rows):
    """The log after something happened to its file."""
    new = rows.iloc[[0]].assign(user_id="aaa-new")
    return {
        "shuffled": rows.sample(frac=1, random_state=0),
        "one new user": pd.concat([new, rows]),
        "one rating": rows.assign(rating=rows.rating.where(rows.index != 7, 6 - rows.rating)),
    }


def test_what_is_kept_is_what_the_job_was_given(trained):
    file, directory = trained
    dataset, parts = load(config_for(file).data)
    kept, kept_parts = run_data.read(directory)
    for table in ("users", "items", "interactions"):
        there, here = getattr(kept, table), getattr(dataset, table)
        assert list(there) == list(here)
        for name in here:
            np.testing.assert_array_equal(there[name], here[name])
    for name in ("fit", "validation", "test"):
        np.testing.assert_array_equal(getattr(kept_parts, name), getattr(parts, name))


@pytest.mark.parametrize("change", ["shuffled", "one new user", "gone"])
def test_a_run_answers_the_same_whatever_happens_to_its_source(
    change, trained, tmp_path, monkeypatch
):
    file, directory = trained
    before = file.read_bytes()

    def answers():
        loaded = load_run(directory)
        index = stages.index(loaded, loaded.retrieval, build.index_builder(config_for(file)))
        return [recommend(loaded, index, f"user-{n}", k=3) for n in range(5)], loaded.tower_digest

    expected = answers()
    monkeypatch.chdir(tmp_path)
    try:
        file.unlink()
        if change != "gone":
            changed(log())[change].to_csv(file, index=False)
        assert answers() == expected
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("change", ["shuffled", "one new user", "one rating"])
def test_a_job_goes_on_with_no_other_data(change, trained, tmp_path):
    _, directory = trained
    other = tmp_path / "log.csv"
    changed(log())[change].to_csv(other, index=False)
    with pytest.raises(UserError, match=r"digest of its data was .* train.resume=never"):
        run_data.keep(*load(config_for(other).data), directory)


def test_a_job_goes_on_with_no_other_split(trained):
    file, directory = trained
    dataset, parts = load(config_for(file).data)
    run_data.keep(dataset, parts, directory)
    other = replace(parts, fit=parts.test, test=parts.fit)
    with pytest.raises(UserError, match="digest of its split was"):
        run_data.keep(dataset, other, directory)


def test_a_job_without_checkpoints_takes_what_its_source_holds_now(trained, tmp_path):
    file, _ = trained
    dataset, parts = load(config_for(file).data)
    run_data.keep(dataset, replace(parts, fit=parts.fit[1:]), tmp_path)
    run_data.keep(dataset, parts, tmp_path)
    np.testing.assert_array_equal(run_data.read(tmp_path)[1].fit, parts.fit)


@pytest.mark.parametrize("damaged", ["interactions.0.*.npy", "fit.npy", "about.json", "split.json"])
def test_data_that_is_missing_or_damaged_is_refused(damaged, trained, tmp_path):
    file, _ = trained
    run_data.keep(*load(config_for(file).data), tmp_path)
    (path,) = (tmp_path / "data").glob(damaged)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"must hold the data that the run was trained on.* in another hydra"
    ):
        run_data.read(tmp_path)
    path.unlink()
    with pytest.raises(
        UserError, match=r"must hold the data that the run was trained on.* in another hydra"
    ):
        run_data.read(tmp_path)
