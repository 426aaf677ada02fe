"""A checkpoint holds everything, or is not taken for one."""

import json

import keras
import numpy as np
import pytest
from small_data import planted
from small_model import implicit_squared, rating, recommender

from mtrec.errors import UserError
from mtrec.training.checkpoint import Checkpoints, is_selected, read_selected


def variables(*values):
    return [
        keras.Variable(np.float32(value), name=f"v{place}") for place, value in enumerate(values)
    ]


def values_of(parts):
    return [v.numpy().tolist() for v in parts]


@pytest.fixture
def saved(tmp_path):
    """Checkpoints after steps 1 and 2, of values 1 and 2."""
    parts = variables([1.0, 1.0], 1.0)
    checkpoints = Checkpoints(tmp_path, {"model": parts})
    checkpoints.save(1, {"epoch": 1})
    for variable in parts:
        variable.assign(variable + 1.0)
    checkpoints.save(2, {"epoch": 2, "history": [{"loss": 0.5}]})
    return tmp_path


def fresh(directory):
    parts = variables([0.0, 0.0], 0.0)
    return parts, Checkpoints(directory, {"model": parts})


def read_latest(checkpoints):
    """Reads the latest whole checkpoint; returns its state, or None."""
    found = checkpoints.latest()
    if found is None:
        return None
    checkpoints.restore(found[0])
    return found[1]


def test_the_latest_checkpoint_is_read_back(saved):
    parts, checkpoints = fresh(saved)

    assert read_latest(checkpoints) == {"epoch": 2, "history": [{"loss": 0.5}]}
    assert values_of(parts) == [[2, 2], 2]


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    _, checkpoints = fresh(tmp_path / "none")

    assert read_latest(checkpoints) is None


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (cut, "weights.index"),
        (cut, "weights.data-00000-of-00001"),
        (cut, "state.json"),
        (flip, "weights.index"),
        (flip, "weights.data-00000-of-00001"),
        (remove, "weights.index"),
        (remove, "weights.data-00000-of-00001"),
        (remove, "state.json"),
    ],
)
def test_a_damaged_checkpoint_is_left_for_the_one_before(saved, damage, name):
    damage(saved / "step-00000002" / name)
    parts, checkpoints = fresh(saved)

    with pytest.warns(UserWarning, match="step-00000002 is damaged"):
        assert read_latest(checkpoints) == {"epoch": 1}
    assert values_of(parts) == [[1, 1], 1]


def test_a_checkpoint_that_was_not_finished_is_not_there(saved):
    (saved / "step-00000002").rename(saved / ".step-00000002.partial")
    _, checkpoints = fresh(saved)

    assert read_latest(checkpoints) == {"epoch": 1}
    checkpoints.save(2, {"epoch": 7})
    assert read_latest(checkpoints) == {"epoch": 7}


def test_a_checkpoint_of_other_variables_is_refused(saved):
    _, checkpoints = fresh(saved)
    more = Checkpoints(saved, {"model": variables([0.0, 0.0], 0.0, 0.0)})
    with pytest.raises(AssertionError):
        read_latest(more)
    assert read_latest(checkpoints) is not None


def test_saving_a_step_again_replaces_it(saved):
    parts, checkpoints = fresh(saved)
    checkpoints.save(2, {"epoch": 9})
    for variable in parts:
        variable.assign(variable + 5.0)

    assert read_latest(checkpoints) == {"epoch": 9}
    assert values_of(parts) == [[0, 0], 0]


def test_pruning_keeps_the_best_and_the_latest(tmp_path):
    _, checkpoints = fresh(tmp_path)
    for step in (5, 10, 15, 20, 100):
        checkpoints.save(step, {})
    checkpoints.prune(keep=10, latest=2)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000010",
        "step-00000020",
        "step-00000100",
    ]


def test_only_the_selected_checkpoint_is_read_and_only_the_parts_asked_for(tmp_path):
    model, optimizer = variables([1.0, 1.0]), variables(7.0)
    checkpoints = Checkpoints(tmp_path, {"model": model, "optimizer": optimizer})
    checkpoints.save(1, {})
    model[0].assign([9.0, 9.0])
    checkpoints.save(2, {})
    assert not is_selected(tmp_path)
    checkpoints.select(1)
    assert is_selected(tmp_path)

    read = variables([0.0, 0.0])
    read_selected(tmp_path, model=read)
    assert values_of(read) == [[1, 1]]
    checkpoints.select(2)
    read_selected(tmp_path, model=read)
    assert values_of(read) == [[9, 9]]


def test_a_run_without_a_selected_checkpoint_is_refused(saved):
    with pytest.raises(UserError, match="must hold a selected checkpoint, and holds none"):
        read_selected(saved, model=variables([0.0, 0.0], 0.0))


def test_a_damaged_selected_checkpoint_is_refused(saved):
    _, checkpoints = fresh(saved)
    checkpoints.select(2)
    flip(saved / "step-00000002" / "weights.data-00000-of-00001")
    with pytest.raises(
        UserError, match=r"step-00000002 is damaged\. Run the job again in another hydra"
    ):
        read_selected(saved, model=variables([0.0, 0.0], 0.0))


def test_nothing_is_pickled(saved):
    files = {path.name for path in (saved / "step-00000002").iterdir()}

    assert files == {"state.json", "weights.index", "weights.data-00000-of-00001"}
    assert json.loads((saved / "step-00000002" / "state.json").read_text())["state"]["epoch"] == 2


def test_a_model_is_read_back_whole_by_another_model_of_the_same_process(tmp_path):
    data = planted()
    first, second = (
        recommender(
            data,
            {"retrieval": implicit_squared(), "rating": rating(layers=[3])},
            layers=(8, 8),
            seed=seed,
        )
        for seed in (1, 2)
    )
    for weight in first.weights:
        weight.assign(weight + 0.5)
    checkpoints = Checkpoints(tmp_path, {"model": first.weights})
    checkpoints.save(1, {})
    checkpoints.select(1)
    read_selected(tmp_path, model=second.weights)

    assert len(first.weights) == 19
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
