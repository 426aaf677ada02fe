"""What is done after training reads sharded tables where they are, and finds the same."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from silent import Silent
from small_config import SMALL, config_of

from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.tables import tables_of
from mtrec.jobs import build, stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.tracking import run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The config, and one run restored with whole tables and with tables on disk."""
    directory = tmp_path_factory.mktemp("run")
    config = config_of(*SMALL, "train.epochs=2", "index=exact")
    dataset, parts = load(config.data)
    worker.train(config, dataset, parts, directory, Silent())
    sharded = replace(config, model=replace(config.model, table_placement="sharded"))
    return config, *(restore_run(c, dataset, parts, directory) for c in (config, sharded))


FRESH_PROCESS = """
import sys
import numpy as np
import tensorflow as tf

directory, model = sys.argv[1:]
signatures = tf.saved_model.load(model).signatures
given = np.load(directory + "/given.npz")
users, items = (tf.constant(given[name].tolist()) for name in ("users", "items"))
outputs = {
    "embed_query": signatures["embed_query"](user_id=users),
    "score_pairs": signatures["score_pairs"](user_id=users, item_id=items),
    "recommend": signatures["recommend"](user_id=users, k=tf.constant(5)),
}
assert "mtrec" not in sys.modules
results = {f"{s}_{name}": v.numpy() for s, o in outputs.items() for name, v in o.items()}
for name, values in results.items():
    results[name] = values.astype(str) if values.dtype == object else values
np.savez(directory + "/results.npz", **results)
"""


def saved(model):
    """Every variable of a SavedModel, by its name there."""
    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def served(directory, model):
    """What a fresh process, which has no mtrec, is answered by a SavedModel."""
    command = [sys.executable, "-c", FRESH_PROCESS, str(directory), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode == 0, done.stderr
    with np.load(directory / "results.npz") as results:
        return dict(results)


def test_no_row_is_held_and_all_that_is_found_is_the_same(runs):
    config, whole, on_disk = runs
    tables = tables_of(on_disk.model)
    assert len(tables) > 3
    assert all(isinstance(t, ShardedVariable) for t in tables)
    assert on_disk.tower_digest == whole.tower_digest
    assert stages.evaluate(on_disk)[0] == pytest.approx(stages.evaluate(whole)[0], abs=1e-6)
    index = stages.index(on_disk, "retrieval", build.index_builder(config))
    stages.export(on_disk, index)
    assert not any(t.shards for t in tables)
    assert sum(v.shape[0] for v in (t.value for t in tables)) == 0
    # What is read from disk is there as before.
    assert on_disk.tower_digest == whole.tower_digest


def test_a_saved_model_of_tables_on_disk_is_that_of_whole_ones_to_the_bit(runs, tmp_path):
    config, whole, on_disk = runs
    index = stages.index(whole, "retrieval", build.index_builder(config))
    users, items = whole.dataset.users["user_id"][[3, 5, 3, 0]], whole.item_ids[[1, 2, 7, 4]]
    np.savez(tmp_path / "given.npz", users=np.asarray(users, str), items=np.asarray(items, str))
    variables, answers, files = [], [], []
    for run in (on_disk, whole):
        stages.export(run, index)
        model = run.directory / run_dir.MODEL
        variables.append(saved(model))
        answers.append(served(tmp_path, model))
        files.append(sorted(p.relative_to(model) for p in model.rglob("*")))
    assert files[0] == files[1]
    assert len(answers[0]) > 8
    for found, expected in (variables, answers):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    of_tables = {t.numpy().tobytes() for t in tables_of(whole.model)}
    assert of_tables <= {values.tobytes() for values in variables[0].values()}
