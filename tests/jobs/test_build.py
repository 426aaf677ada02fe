"""What a config is turned into, where that depends on more than one of its fields."""

from dataclasses import replace

import numpy as np
import pytest
from small_config import SMALL, config_of
from small_data import planted, written_out

from mtrec.distributed.sharded_tables import ShardedVariable
from mtrec.distributed.tables import Table
from mtrec.errors import UserError
from mtrec.jobs import build
from mtrec.jobs.load import load


def batches_of(dataset, *overrides):
    config = config_of(*SMALL, *overrides)
    heads = build.model(config, dataset, np.arange(100)).heads
    return build.batches(config, dataset, np.arange(100), heads, 1)


def test_histories_end_before_the_target_where_that_is_asked_for():
    def looks_ahead(*overrides):
        data = planted()
        columns = data.interactions
        pairs = zip(columns["user"].tolist(), columns["item"].tolist(), strict=True)
        time = dict(zip(pairs, columns["timestamp"].tolist(), strict=True))
        (batch,) = batches_of(data, *overrides).step(1, 0)

        def times(query, places):
            return [time[batch.query.users[query], item] for item in batch.items[places].tolist()]

        history, rows = batch.query.history, batch.rows
        queries = np.flatnonzero(batch.query.users)
        return any(
            max(times(query, history.places[history.owners == query]), default=-1)
            >= min(
                times(query, rows.item[(rows.query == query) & (rows.weight > 0)]), default=np.inf
            )
            for query in queries
        )

    assert looks_ahead()
    assert not looks_ahead("train.chronological=true")


def test_an_order_of_time_is_refused_where_there_is_none():
    data = planted()
    columns = data.interactions
    names = ("user", "item", "rating")
    rows = zip(*(columns[name] for name in names), np.zeros(500), strict=True)

    with pytest.raises(UserError, match=r"train\.chronological must be false"):
        batches_of(written_out(list(rows)), "train.chronological=true")


def test_users_who_take_items_again_are_shown_what_is_earlier_and_known_by_it():
    later = ("data.repeats=true", "data.split.kind=temporal")
    assert config_of(*SMALL, *later).train.chronological
    assert build.data(config_of(*SMALL, *later), planted()).repeats

    with pytest.raises(UserError, match=r"data\.split\.kind must be temporal or leave_one_out"):
        config_of(*SMALL, "data.repeats=true")
    with pytest.raises(UserError, match=r"train\.chronological must be true with data\.repeats"):
        batches_of(replace(planted(), repeats=True), *later, "train.chronological=false")


def test_held_out_rows_are_asked_for_by_request_where_there_are_requests_or_context():
    hour = "{_target_: mtrec.Categorical, column: context.hour_of_day}"
    asked = {
        "train.batch_of=requests": True,
        f"+data.features.query.rating.hour={hour}": True,
        "train.batch_of=rows": False,
    }
    for override, by_request in asked.items():
        assert build.data(config_of(*SMALL, override), planted()).by_request is by_request


def test_heads_with_different_negatives_are_refused():
    with pytest.raises(UserError, match=r"heads retrieval, other must have the same negatives"):
        batches_of(planted(), "+head@task.heads.other=softmax", "+task.weights.other=1")


def test_users_have_what_the_heads_that_are_trained_call_positive():
    data = planted()
    joint = ("task.heads.retrieval.label=rating", "task.heads.retrieval.at_least=4")
    liked = data.interactions["rating"] >= 4

    assert build.data(config_of(*SMALL, *joint), data).taken.tolist() == liked.tolist()
    everything = build.data(config_of(*SMALL, *joint, "task.heads.retrieval.has=all"), data)
    assert everything.taken.all()
    assert build.data(config_of(*SMALL), data).taken.all()
    alone = build.data(config_of(*SMALL, *joint, "task.weights.retrieval=0"), data)
    assert alone.taken is None


ESTIMATED = ("head@task.heads.retrieval=softmax", "task.heads.retrieval.negatives.log_q_rate=0.1")


def test_an_estimate_of_log_q_that_no_loss_reads_is_refused():
    assert batches_of(planted(), *ESTIMATED).negatives.log_q_rate == 0.1
    with pytest.raises(UserError, match=r"log_q_rate must be null where no loss is .*; got 0.1"):
        batches_of(planted(), *ESTIMATED, "task.heads.retrieval.loss.log_q_correction=null")


def test_every_head_has_its_own_seeded_weights_and_the_rating_scale_of_the_data():
    config = config_of(*SMALL)
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)

    assert list(model.heads) == ["retrieval", "rating"]
    assert (model.heads["rating"].low, model.heads["rating"].high) == (1.0, 5.0)
    stars = dataset.interactions["rating"][parts.fit]
    assert model.heads["rating"].train_mean == pytest.approx(np.nanmean(stars), rel=1e-6)


def test_learning_rates_fall_to_zero_over_the_steps_that_are_taken():
    rates = build.optimizers(config_of(*SMALL, "train.epochs=5"), 4).dense._learning_rate
    first = config_of().optimizer["dense"]["learning_rate"]

    assert float(rates(0)) == pytest.approx(first)
    assert float(rates(10)) == pytest.approx(first / 2)
    assert float(rates(20)) == pytest.approx(0, abs=1e-9)
    short = build.optimizers(config_of(*SMALL, "train.max_steps=6"), 4).tables._learning_rate
    assert float(short(6)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("how", ["auto", "replicated", "sharded"])
def test_an_optimizer_that_cannot_update_shards_is_refused_with_sharded_tables(how):
    overrides = ("optimizer.tables._target_=keras.optimizers.Adam", f"model.table_placement={how}")
    config = config_of(*SMALL, *overrides)
    if how != "sharded":
        build.model(config, planted(), np.arange(100))
        return
    with pytest.raises(UserError, match=r"TableOptimizer .*; got keras.optimizers.Adam"):
        build.model(config, planted(), np.arange(100))


def test_sharded_tables_of_one_replica_are_plain_ones():
    model = build.model(
        config_of(*SMALL, "model.table_placement=sharded"), planted(), np.arange(100)
    )
    assert not [v for v in model.weights if isinstance(v, ShardedVariable)]
    assert isinstance(model.heads["rating"].user_bias, Table)
