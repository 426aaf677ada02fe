"""The start-up report's figures, against numbers worked out by hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_batch import written
from small_data import planted
from small_model import implicit_squared, rating, recommender, softmax
from small_negatives import in_batch

from mtrec.distributed.tables import tables_of
from mtrec.jobs.footprint import describe
from mtrec.training.optimizers import LazyAdam
from mtrec.training.step import Optimizers

# 40 users and 30 items; the towers' shared width is 8.
HEADS = {"retrieval": implicit_squared(), "softmax": softmax(dim=6), "rating": rating(dim=4)}
LENGTHS = {
    "query_users": 1024,
    "items": 2048,
    "pool_items": 1024,
    "rows_item": 4096,
}


@pytest.fixture(scope="module")
def lines_of():
    model = recommender(planted(), HEADS)
    optimizers = Optimizers(
        tables=LazyAdam(learning_rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        dense=keras.optimizers.Adam(0.1),
    )
    optimizers.tables.build(tables_of(model))
    batch = written(**{name: np.zeros(length) for name, length in LENGTHS.items()})

    def lines_of(replicas):
        strategy = SimpleNamespace(num_replicas_in_sync=replicas, cluster_resolver=None)
        return describe(model, optimizers, strategy, batch).splitlines()

    return lines_of


def test_parameters_memory_and_the_batch_are_stated(lines_of):
    lines = lines_of(4)
    assert lines[0].endswith("4 replicas in 1 worker, global batch 4,096, 1,024 a replica")
    # Tables: 31 x 8 + 41 x 4 + 31 x 4 + 41 + 31 numbers. Dense: a layer of 8 x 8 + 8, projections
    # of 2 (8 x 6 + 6) and 2 (8 x 4 + 4), the mean, and 8 in place of a history without items.
    assert lines[1] == "parameters: 608 in 5 tables, 261 dense"
    # 4 x 608 bytes, and two moments for each number.
    assert lines[2] == "on each device: 2.4 KiB of tables, 4.8 KiB of their optimizer's slots"


@pytest.mark.parametrize(
    ("table", "lookups", "width"),
    [
        # In thousands: items of rows and histories, the pool, and again what is in histories.
        ("candidate_shared_item_id: 31 rows x 8 = 248", 2 + 1 + 2, 8),
        # No loss reads this head's representation of the pool.
        ("candidate_rating_item_id: 31 rows x 4 = 124", 2, 4),
        ("query_rating_user_id: 41 rows x 4 = 164", 1, 4),
        ("rating_user_bias: 41 rows x 1 = 41", 4, 1),
        ("rating_item_bias: 31 rows x 1 = 31", 4, 1),
    ],
)
def test_what_a_table_sends_is_stated_for_each_placement(lines_of, table, lookups, width):
    # To three others: a gradient and an id; sharded, two more vectors to sum what was looked up.
    replicated, sharded = (3 * lookups * 4 * (n * width + 1) for n in (1, 3))
    sent = [
        f"{size / 1024:.1f} MiB" if size >= 1024 else f"{size}.0 KiB"
        for size in (replicated, sharded)
    ]
    line = f"  {table}, replicated; a step sends {sent[0]} replicated, {sent[1]} sharded"
    assert line in lines_of(4)


def test_what_losses_and_dense_weights_send_is_stated(lines_of):
    assert lines_of(4)[-3:] == [
        # 253 numbers of 4 bytes, summed by a ring of four: 2 x 3/4 of them.
        "each replica sends in a step, beside tables: 1.5 KiB of dense gradients",
        # 2 x 3/4 x 8 x 8 numbers of 4 bytes, once forward and once back.
        "  retrieval: 0.8 KiB of the 8 x 8 Gramian and its gradient, whatever the batch",
        # To three others, 1,024 times: 6 numbers, 12 to sum their gradients, an id and its log Q.
        "  softmax: 240.0 KiB of 1,024 candidates gathered by all and their gradients",
    ]


def test_what_queries_and_an_estimate_of_log_q_send_is_stated():
    model = recommender(planted(), {"softmax": softmax(pool="streaming", dim=6, same_tower=True)})
    optimizers = Optimizers(tables=keras.optimizers.SGD(0.1), dense=keras.optimizers.SGD(0.1))
    batch = written(**{name: np.zeros(length) for name, length in LENGTHS.items()})
    strategy = SimpleNamespace(num_replicas_in_sync=4, cluster_resolver=None)

    assert describe(model, optimizers, strategy, batch).splitlines()[-2:] == [
        # To three others, 1,024 times: 6 numbers, 12 to sum their gradients, and a user; an id.
        "  softmax: 228.0 KiB of 1,024 queries gathered by all and their gradients",
        "  log Q: 12.0 KiB of 1,024 item ids gathered by all",
    ]


@pytest.mark.parametrize("head", [softmax, implicit_squared])
def test_a_head_with_a_pool_on_each_replica_sends_nothing(head):
    batch = written(**{name: np.zeros(length) for name, length in LENGTHS.items()})
    assert head(pool=in_batch(local=True)).sends(batch, width=8, replicas=4) == []


def test_one_device_sends_nothing(lines_of):
    lines = lines_of(1)
    assert lines[0].startswith("one device: 1 replica in 1 worker")
    assert lines[3:] == [
        line.split(", replicated")[0] for line in lines_of(4)[3:] if " rows x " in line
    ]
