"""What the benchmark writes, says and compares; `pytest -m speed` holds some of its ratios."""

import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_config import composed

import mtrec.benchmark.settings  # noqa: F401 (tells Hydra the schema)
from mtrec.benchmark import arrays, contest, results, rows
from mtrec.benchmark.contest import Case, Contestant, Played
from mtrec.benchmark.contestants.rounds import Steps
from mtrec.benchmark.environments import python_of
from mtrec.errors import UserError

SIZES = [path.stem for path in (Path(__file__).parents[2] / "conf/benchmark/size").glob("*.yaml")]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_every_row(size):
    config = composed(f"size={size}", name="benchmark", folder="benchmark")
    found = OmegaConf.to_object(config)
    assert set(found.rows) == set(found.size) == set(rows.ROWS)


def test_peers_get_the_batches_and_the_pool_of_mtrec(tmp_path):
    folder = arrays.write_steps(tmp_path, batch=64, rows=50, ids="zipf", steps=2, seed=3)
    written = Steps(str(folder)).batches[1]
    log = dict(np.load(folder / "log.npz"))
    pairs = zip(written["user"], written["item"], strict=True)
    assert len(written["user"]) == 64
    assert set(pairs) <= set(zip(log["user"], log["item"], strict=True))
    assert (np.unique(written["item"]) == written["pool"]).all()
    assert (written["pool"][written["place"]] == written["item"]).all()
    has = set(zip(log["user"], log["item"], strict=True))
    for query, place in written["own"]:
        assert (written["user"][query], written["pool"][place]) in has
    # Each of the batch's queries and pool items that its user has is there.
    expected = sum((u, i) in has for u in written["user"] for i in written["pool"])
    assert len(np.unique(written["own"], axis=0)) == len(written["own"]) == expected


def test_a_loss_that_is_not_numpys_is_said():
    expected = {"pool": 2.0, "in_batch": 3.0, "repeats": 4.0, "rating": 1.0}
    right = {"retrieval": 3.0, "rating": 1.0}
    assert rows.wrong_losses(expected, {"TFRS": right}) == []
    (said,) = rows.wrong_losses(expected, {"TFRS": right, "mtrec": {"retrieval": 2.01}})
    assert said == "mtrec: the first retrieval loss must be 2.000000, as by NumPy; got 2.010000."


def test_a_recall_that_was_not_reached_is_said():
    found = {"mtrec": {"recall_at_10": 0.23, "epochs": 12}}
    assert rows.short_of(0.227, found) == []
    (said,) = rows.short_of(0.227, found | {"TFRS": {"recall_at_10": 0.2, "epochs": 60}})
    assert said == "TFRS must reach recall@10 of 0.227; got 0.2000 after 60 epochs."


def test_contestants_take_turns_and_one_that_fails_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "SCRIPTS", tmp_path)
    rounds = Path(arrays.__file__).parent / "contestants"
    turn = f"""
import sys; sys.path.insert(0, {str(rounds)!r})
from rounds import answer, options
def play():
    print("chatter")
    with open({str(tmp_path / "turns")!r}, "a") as file: file.write(options()["name"])
    return {{"units": 2, "cpu": options()["cpu"]}}
answer(play, device="CPU")
"""
    (tmp_path / "turn.py").write_text(turn)
    (tmp_path / "broken.py").write_text("raise ValueError('not here')")
    case = Case(
        "turns",
        "turn",
        [
            Contestant("a", "turn", {"name": "a", "cpu": 2e-6}),
            Contestant("b", "turn", {"name": "b", "cpu": 6e-6}),
            Contestant("c", "broken", {}),
            Contestant("d", "turn", {"name": "d", "cpu": 0}, "absent"),
        ],
        rounds=2,
    )
    played, said = contest.play(case, {"absent": UserError("absent must be installable.")})
    assert (tmp_path / "turns").read_text() == "ab" * 3
    assert played["b"].cpu == [3.0, 3.0]
    assert contest.ratios(played) == {"b": [3.0, 3.0]}
    assert said == [
        "c must play to the end; it ended with `ValueError: not here`.",
        "absent must be installable.",
    ]


def test_a_peer_that_is_left_out_does_not_play_and_takes_no_memory():
    ours = Contestant("mtrec", "x", {}, gib=2)
    case = Case("some", "step", [ours, Contestant("TFRS", "x", {}, "tfrs", 3)], rounds=1)
    config = composed("~peers.tfrs", name="benchmark", folder="benchmark")
    assert "torch" in config.peers
    assert case.gib == case.of(["tfrs"]).gib == 5
    left = case.of(config.peers)
    assert [one.name for one in left.contestants] == ["mtrec"]
    assert left.gib == 2


def test_a_step_says_that_all_scores_of_a_large_batch_take_memory(tmp_path):
    size = {"batches": [64, 256], "tasks": ["softmax"], "rows": 100, "ids": "zipf", "steps": 1}
    small, large = (
        {one.name: one.gib for one in case.contestants} for case in rows.step(size, tmp_path, 1, 1)
    )
    # TFRS was seen to take more than 15 GiB with 16,384 rows, whose scores are one.
    scores = 4 * (256**2 - 64**2) / 2**30
    assert large["TFRS"] - small["TFRS"] == pytest.approx(16 * scores)
    assert large["mtrec"] == small["mtrec"]


def test_what_was_found_is_a_table_and_stays_when_other_cases_are_measured(tmp_path):
    case = Case("some", "query", [Contestant("mtrec", "x", {}), Contestant("NumPy", "x", {})], 3)
    about = {"device": "CPU"}
    played = {
        "mtrec": Played([1.0, 2.0, 4.0], [2.0, 2.0, 2.0], {}, about),
        "NumPy": Played([3.0, 4.0, 8.0], [4000.0, 4000.0, 4000.0], {}, about),
    }
    how = {"machine": results.machine() | {"load": 1.5}, "size": {"queries": 2}}
    record = results.as_record(case, played, ["A sentence."], **how)
    results.save({"index": [record]}, tmp_path)
    assert results.load(tmp_path) == {"index": [record]}
    later = record | {"name": "other", "machine": how["machine"] | {"load": 2.5}}
    cases = results.replaced(results.replaced([record], later), later)
    assert cases == [record, later]
    alone = record | {"contestants": {"mtrec": {}}}
    assert results.replaced([record], alone) == [record, alone]
    assert results.replaced([alone, later], record) == [later, record]
    results.save({"index": cases}, tmp_path)
    text = (tmp_path / results.TABLE).read_text()
    # Each machine is told before the cases that it ran.
    marks = ("load 1.5 ", "| some |", "load 2.5 ", "| other |")
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    # Ratios round by round: 3, 2 and 2.
    assert "| NumPy | CPU | 4 µs (3 µs to 8 µs) | 4 ms (4 ms to 4 ms) | 2 (2 to 3) |" in text
    assert "A sentence." in text
    assert (tmp_path / results.PICTURE).stat().st_size > 1000


def test_a_peer_that_cannot_be_installed_is_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nobody must be installable.*Check pip's settings"):
        python_of("nobody", [f"{tmp_path}/no_such_wheel.whl"], tmp_path)
    # What is there half-way is no environment.
    with pytest.raises(UserError):
        python_of("nobody", [f"{tmp_path}/no_such_wheel.whl"], tmp_path)


def measured(case):
    """CPU time over the first contestant's, medians over rounds, by name; all must be right."""
    played, said = contest.play(case, {"none": Path(sys.executable)})
    assert said == []
    return {name: float(np.median(ratio)) for name, ratio in contest.ratios(played).items()}


@pytest.mark.speed
def test_a_ranking_takes_few_times_its_matrix_product(tmp_path):
    (case,) = rows.evaluation({"users": 2000, "items": 20_000}, tmp_path, 1, 5)
    # Measured: 1.9 at 50,000 items; 13 when it sorted.
    assert measured(case)["mtrec"] < 5


@pytest.mark.speed
def test_a_step_does_not_depend_on_the_size_of_tables(tmp_path):
    size = {
        "rows": [10_000, 1_000_000],
        "ids": ["zipf"],
        "batch": 4096,
        "steps": 4,
        "optimizer": "rowwise_adagrad",
    }
    (case,) = rows.tables(size, tmp_path, 1, 5)
    # An optimizer that goes through the whole table takes tens of times as long.
    assert measured(case)["1,000,000 rows"] < 3


@pytest.mark.speed
def test_training_costs_little_more_than_its_steps(tmp_path):
    size = {"rows": 100_000, "batches": [4096], "steps": 4}
    (case,) = rows.input(size, tmp_path, 1, 5)
    found = measured(case)
    assert found["batches made"] < 2
    assert found["input alone"] < 1
