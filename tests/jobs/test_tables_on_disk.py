"""What is done after training reads sharded tables where they are, and finds the same."""

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


def test_no_row_is_held_until_a_model_is_exported(runs):
    config, whole, on_disk = runs
    tables = tables_of(on_disk.model)
    assert len(tables) > 3
    assert all(isinstance(t, ShardedVariable) and not t.shards for t in tables)
    assert sum(v.shape[0] for v in (t.value for t in tables)) == 0
    assert on_disk.tower_digest == whole.tower_digest
    assert stages.evaluate(on_disk)[0] == pytest.approx(stages.evaluate(whole)[0], abs=1e-6)
    index = stages.index(on_disk, "retrieval", build.index_builder(config))
    assert not any(t.shards for t in tables)

    served = []
    for run in (on_disk, whole):
        stages.export(run, index)
        signatures = tf.saved_model.load(str(run.directory / run_dir.MODEL)).signatures
        ids = run.dataset.users["user_id"][[3, 5]].tolist(), run.item_ids[[1, 2]].tolist()
        pairs = dict(zip(("user_id", "item_id"), map(tf.constant, ids), strict=True))
        served.append(signatures["score_pairs"](**pairs))
    for name, values in served[1].items():
        np.testing.assert_allclose(served[0][name], values, rtol=1e-6, err_msg=name)
    for table, other in zip(tables, tables_of(whole.model), strict=True):
        assert list(table.shards) == [0]
        np.testing.assert_array_equal(table.numpy(), other.numpy())
