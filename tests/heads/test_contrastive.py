"""The contrastive head and its masks against numbers worked out by hand and plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from small_batch import as_tensors, batches_of, written
from small_config import SMALL, config_of
from small_data import all_rows, planted
from small_model import SCHEMES, contrastive, implicit_squared, recommender

from mtrec.errors import UserError
from mtrec.heads.contrastive import Contrastive
from mtrec.heads.head import Examples
from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.model.bags import EncodedBags
from mtrec.model.features import Categorical, Numeric
from mtrec.model.recommender import Recommender
from mtrec.model.tower import Tower
from mtrec.model.views import CorrelatedMasks, most_correlated, mutual_information

# Shares 1/4, 1/4 and 1/2 of three pairs; one side's values have 1/2 and 1/2, the other's 1/4, 3/4.
IN_PART = 0.25 * np.log(2) + 0.25 * np.log(2 / 3) + 0.5 * np.log(4 / 3)

# Two in three have one pair of values, the others another.
THIRDS = np.log(3) - 2 / 3 * np.log(2)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 1, 2, 2], [3, 3, 1, 1], np.log(2)),
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([1, 1, 2, 2], [1, 2, 2, 2], IN_PART),
        # An unknown value is a value.
        ([0, 0, 1, 1], [1, 1, 2, 2], np.log(2)),
        # One of a bag's values is drawn: 1 and 2 beside 5, 1 alone beside 6.
        (EncodedBags([0, 2, 4], [1, 2, 1, 0], None), [5, 6], IN_PART),
        (EncodedBags([0, 2, 2], [1, 2], None), [5, 6], np.log(2)),
        ([5, 6, 5], EncodedBags([0, 1, 2, 3], [3, 0, 3], None), THIRDS),
        # Numbers fall into ten bins of two.
        (np.arange(20, dtype=np.float32)[::-1, np.newaxis], np.arange(20) // 2 + 1, np.log(10)),
    ],
)
def test_mutual_information_is_that_of_the_shares_of_values(one, other, expected):
    columns = [c if isinstance(c, EncodedBags) else np.array(c) for c in (one, other)]
    found = mutual_information(columns)
    np.testing.assert_allclose(found, [[0, expected], [expected, 0]], atol=1e-12)


def test_a_seed_is_masked_with_those_that_tell_most_of_it_half_of_all_features():
    information = np.array([[9, 1, 3, 2], [1, 0, 5, 4], [3, 5, 0, 6], [2, 4, 6, 0]])
    found = most_correlated(information).astype(int)

    assert found.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert most_correlated(information[:3, :3]).sum(axis=1).tolist() == [2, 2, 2]


def test_two_views_show_each_feature_once_and_every_feature_is_a_seed():
    column = np.array([1, 1, 2, 2])
    apart, alike = np.array([1, 2, 1, 2]), np.array([2, 2, 1, 1])
    masks = CorrelatedMasks({"a": column, "b": apart, "c": alike, "d": apart[::-1]})
    hidden = set()
    for draw in range(8):
        one, other = (
            frozenset(name for name, shown in half.items() if shown)
            for half in masks.halves(tf.constant(draw))
        )
        assert one | other == set("abcd")
        assert not one & other
        assert "abcd"[draw % 4] in other
        hidden.add(other)
    assert hidden == {frozenset("ac"), frozenset("bd")}


def infonce(one, other, temperature):
    """The loss of every item, from all pairs of views."""
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, other))
    scores = one @ other.T / temperature
    return logsumexp(scores, axis=1) - np.diag(scores)


def test_an_item_is_told_from_the_drawn_ones_and_padding_counts_nothing():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 7, 3)).astype(np.float32)
    item = np.int32([4, 1, 0, 3, 9, 0, 0])
    given = Examples(
        query=tf.zeros((0, 3)),
        item=tf.zeros((0, 3)),
        pool=tf.zeros((0, 3)),
        batch=as_tensors(written(views_items=item)),
        views=[tf.constant(one), tf.constant(other)],
    )
    losses, mask = Contrastive(dim=None, temperature=0.3, items=4).losses(given)

    assert mask.numpy().tolist() == [1, 1, 0, 1, 1, 0, 0]
    real = item > 0
    np.testing.assert_allclose(losses[real], infonce(one[real], other[real], 0.3), atol=2e-6)


@pytest.fixture(scope="module")
def data():
    """Items with a group and a size."""
    dataset = planted()
    rng = np.random.default_rng(1)
    group = np.concatenate([[""], rng.choice(["a", "b", "c"], 30)])
    size = np.concatenate([[np.nan], rng.normal(size=30)]).astype(np.float32)
    return replace(dataset, items={**dataset.items, "group": group, "size": size})


def three_features(data, *, scheme="shared_bottom", dim=None):
    """A model of an id and a group that all heads share, and a size of `similar` alone."""
    features = {
        "shared": {
            "item_id": Categorical(column="item_id"),
            "group": Categorical(column="group"),
        },
        "similar": {"size": Numeric(column="size")},
    }
    query = {"shared": {"user_id": Categorical(column="user_id")}}
    model = Recommender(
        query=Tower(features=query, dim=8, stddev=0.3, sharing=SCHEMES[scheme]()),
        candidate=Tower(features=features, dim=8, stddev=0.3, sharing=SCHEMES[scheme]()),
        heads={"retrieval": implicit_squared(), "similar": contrastive(dim=dim)},
    )
    return model.adapt(data, all_rows(data), seed=1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_view_is_the_representation_of_an_item_whose_other_features_are_unknown(data, scheme):
    model = three_features(data, scheme=scheme, dim=5)
    rows = tf.constant([3, 8, 0])
    encoded = dict(model.candidate.encoded)
    masks = model.masks["similar"]
    assert masks.names == [
        *("candidate/shared/item_id", "candidate/shared/group", "candidate/similar/size")
    ]
    for draw in range(3):
        for view, shown in zip(
            model.views("similar", rows, tf.constant(draw)),
            masks.halves(tf.constant(draw)),
            strict=True,
        ):
            for path, show in shown.items():
                values = encoded[path]
                model.candidate.encoded[path] = values if show else tf.zeros_like(values)
            np.testing.assert_allclose(view, model.candidates(rows)["similar"], atol=1e-6)
            model.candidate.encoded.update(encoded)


def test_a_table_is_moved_only_by_the_view_that_shows_its_feature(data):
    model = three_features(data)
    tables = {
        "candidate/shared/item_id": model.candidate.spaces["shared"]["item_id"].table,
        "candidate/shared/group": model.candidate.spaces["shared"]["group"].table,
    }
    rows, draw = tf.constant([5, 6, 7]), tf.constant(1)
    with tf.GradientTape(persistent=True) as tape:
        views = model.views("similar", rows, draw)
        total = [tf.reduce_sum(view) for view in views]
    for one, shown in zip(total, model.masks["similar"].halves(draw), strict=True):
        for path, table in tables.items():
            touched = tape.gradient(one, table.embeddings.value).indices.numpy()
            known = tf.gather(model.candidate.encoded[path], rows).numpy()
            # A hidden value is the unknown one, row 0.
            assert touched.tolist() == (known.tolist() if shown[path] else [0, 0, 0])


def batches(dataset, *, views, num_replicas=1):
    return batches_of(
        dataset,
        all_rows(dataset),
        batch_of="users",
        global_batch=16,
        history_share=0.6,
        chronological=False,
        negatives=None,
        num_replicas=num_replicas,
        seed=3,
        views=views,
    )


def drawn(slices):
    items = np.concatenate([batch.views.items for batch in slices])
    return sorted(items[items > 0].tolist()), {int(batch.views.draw) for batch in slices}


def test_any_number_of_replicas_draws_the_same_items_and_features_in_a_step(data):
    one = batches(data, views=10)
    for replicas in (2, 4):
        more = batches(data, views=10, num_replicas=replicas)
        for place in ((1, 0), (1, 2), (7, 1)):
            items, seeds = drawn(one.step(*place))
            assert (items, seeds) == drawn(more.step(*place))
            assert len(set(items)) == 10
            assert len(seeds) == 1
            assert set(items) <= set(range(1, 31))


def test_items_and_seeds_are_drawn_evenly_and_anew_in_each_step(data):
    source = batches(data, views=10)
    found = [drawn(source.step(epoch, 0)) for epoch in range(1, 301)]

    counts = np.bincount([item for items, _ in found for item in items], minlength=31)[1:]
    assert counts.min() > 65  # 100 expected, with a standard deviation of 8
    assert counts.max() < 135
    seeds = np.bincount([seed % 3 for _, (seed,) in found])
    assert seeds.min() > 70  # 100 expected, with the same deviation


def test_all_items_are_drawn_where_there_are_fewer_than_asked_for(data):
    assert drawn(batches(data, views=1000).step(1, 0))[0] == list(range(1, 31))


def test_a_batch_without_views_holds_none_and_is_otherwise_the_same(data):
    (without,) = batches(data, views=0).step(2, 1)
    (with_views,) = batches(data, views=10).step(2, 1)

    assert not without.views.items.any()
    assert with_views.views.items.any()
    for one, other in zip(
        *(tf.nest.flatten(batch._replace(views=())) for batch in (with_views, without)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_one_feature_cannot_be_told_by_another():
    config = config_of(*SMALL, "+head@task.heads.similar=contrastive", "+task.weights.similar=0.1")
    data, parts = load(config.data)
    with pytest.raises(UserError, match=r"data.features.candidate.shared must name at least two"):
        build.model(config, data, parts.fit)
    # One that is the head's own will do.
    assert recommender(data, {"rating": contrastive()}).masks["rating"].names == [
        *("candidate/shared/item_id", "candidate/rating/item_id")
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0; got 0.0"),
        ({"items": 1}, "`items` must be at least 2; got 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        Contrastive(**({"dim": None, "temperature": 0.1, "items": 8} | changed))
