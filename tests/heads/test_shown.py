"""What was shown in vain: a negative in every loss, and nothing that its user has."""

from dataclasses import replace

import numpy as np
import pytest
from small_batch import as_tensors, batches_of
from small_data import all_rows, planted, written_out
from small_model import implicit_squared, rating, recommender
from small_negatives import in_batch

from mtrec.data.histories import Histories
from mtrec.data.negatives import Catalogue
from mtrec.errors import UserError
from mtrec.heads.head import Examples
from mtrec.heads.retrieval import Retrieval, with_taken
from mtrec.heads.retrieval_losses import Bpr, Hinge, ImplicitSquared, Softmax
from mtrec.training.evaluate import Evaluator

NAN = float("nan")


def impressions(rows, **changed):
    """A dataset of `(user, item, clicked, timestamp)` rows."""
    data = written_out(rows, **changed)
    columns = dict(data.interactions)
    columns["clicked"] = columns["rating"]
    return replace(data, interactions=columns | {"rating": np.full(len(rows), np.nan, np.float32)})


def head(loss=None, *, pool=None, label="clicked", **changed):
    loss = loss or Bpr(log_q_correction=False, hardest=None)
    how = {"dim": None, "normalize": False, "temperature": 1.0}
    negatives = pool or Catalogue(most_items=1000)
    return Retrieval(negatives=negatives, loss=loss, label=label, **(how | changed))


def batches(data, *, negatives, **changed):
    how = {
        "batch_of": "users",
        "global_batch": 4,
        "history_share": 0.0,
        "chronological": False,
        "num_replicas": 1,
        "seed": 0,
    }
    return batches_of(data, all_rows(data), negatives=negatives, **(how | changed))


def losses_of(judged, batch, scores):
    """What the head makes of a batch, where item row i has the score `scores[i]` for all."""
    catalogue = np.float32(scores)[:, np.newaxis]
    given = Examples(
        query=np.ones((len(batch.query.users), 1), np.float32),
        item=catalogue[batch.items],
        pool=catalogue[batch.pool.items],
        batch=as_tensors(batch),
    )
    losses, weight = judged.losses(given)
    return losses.numpy()[weight.numpy() > 0]


# Scores of the items 1 to 6, of which 1 to 3 were clicked.
SCORES = [0.0, 0.9, 0.5, 0.1, 0.8, 0.4, 0.3]
CLICKED, SHOWN = np.array(SCORES[1:4]), np.array(SCORES[4:])
SIX = [(1, item, float(item <= 3), item) for item in range(1, 7)]


def losses_by_hand():
    lead = CLICKED[:, np.newaxis] - SHOWN
    yield "bpr", Bpr(log_q_correction=True, hardest=None), np.log1p(np.exp(-lead)).mean(axis=1)
    hinge = Hinge(margin=0.5, log_q_correction=True, hardest=None)
    yield "hinge", hinge, np.maximum(0.5 - lead, 0).mean(axis=1)
    for correction in ("all", "negatives", None):
        loss = Softmax(log_q_correction=correction, hardest=None, same_tower=False)
        yield f"softmax {correction}", loss, np.log(np.exp(SCORES[1:]).sum()) - CLICKED
    squares = np.square(SCORES[1:]).sum()
    squared = ImplicitSquared(all_pairs_weight=0.3)
    yield "implicit squared", squared, (1 - CLICKED) ** 2 + 0.3 * squares / 3


@pytest.mark.parametrize(
    ("loss", "expected"), [pytest.param(*case[1:], id=case[0]) for case in losses_by_hand()]
)
def test_three_items_clicked_are_told_from_three_that_were_not(loss, expected):
    judged = head(loss, pool=in_batch())
    data = with_taken(impressions(SIX), {"retrieval": judged})
    (batch,) = batches(data, negatives=judged.negatives).step(1, 0)
    np.testing.assert_allclose(losses_of(judged, batch, SCORES), expected, rtol=1e-5)


def mean_loss(loss, rows, **changed):
    """The mean over what a user is asked for, of `(user, item, stars, timestamp)` rows."""
    judged = head(loss, pool=in_batch(), label=None, **changed)
    (batch,) = batches(written_out(rows), negatives=judged.negatives).step(1, 0)
    catalogue = np.float32(SCORES)[:, np.newaxis]
    given = Examples(
        query=np.ones((len(batch.query.users), 1), np.float32),
        item=catalogue[batch.items],
        pool=catalogue[batch.pool.items],
        batch=as_tensors(batch),
    )
    losses, weight = (value.numpy() for value in judged.losses(given))
    return (losses * weight).sum() / weight.sum(), weight.sum()


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=name) for name, loss, _ in losses_by_hand()]
)
def test_an_item_that_was_taken_several_times_is_asked_for_once(loss):
    once = [(1, 1, 4, 1), (1, 2, 4, 2), (1, 3, 4, 3)]
    again = [(1, 1, 2, 4), (1, 1, 3, 5), (1, 3, 4, 6)]
    expected, count = mean_loss(loss, once)
    assert count == 3
    assert mean_loss(loss, once + again) == pytest.approx((expected, 3), rel=1e-5)
    # Of several weights the item has the mean: of 4, 2 and 3.
    assert mean_loss(loss, once + again, weight_by="rating")[1] == pytest.approx(3 + 4 + 4)


def pairwise(lead):
    return np.log1p(np.exp(-np.asarray(lead))).mean()


def test_an_item_shown_in_vain_and_clicked_beside_is_no_negative():
    """Items 1 and 2 are clicked, 2 was shown in vain before, and 3 in vain alone."""
    judged = head()
    data = with_taken(
        impressions([(1, 2, 0, 1), (1, 1, 1, 2), (1, 2, 1, 3), (1, 3, 0, 4)]), {"a": judged}
    )
    (batch,) = batches(data, negatives=Catalogue(most_items=1000)).step(1, 0)
    found = losses_of(judged, batch, [0, 0.7, 0.2, 0.4])
    np.testing.assert_allclose(found, [pairwise([0.3]), pairwise([-0.2])], rtol=1e-5)


def test_a_row_without_the_label_says_neither():
    judged = head()
    data = with_taken(impressions([(1, 1, 1, 1), (1, 2, NAN, 2), (1, 3, 0, 3)]), {"a": judged})
    (batch,) = batches(data, negatives=Catalogue(most_items=1000)).step(1, 0)
    # Item 2 would cost most.
    np.testing.assert_allclose(
        losses_of(judged, batch, [0, 0.7, 0.9, 0.4]), [pairwise([0.3])], rtol=1e-5
    )


def test_in_a_sampled_pool_what_was_shown_in_vain_counts_once():
    judged = head(
        ImplicitSquared(all_pairs_weight=1.0), pool=in_batch(), label="rating", at_least=4.0
    )
    data = with_taken(planted(rating_share=1.0), {"a": judged})
    source = batches(data, negatives=judged.negatives, history_share=0.5)
    seen = 0
    for step in range(source.steps_per_epoch):
        (batch,) = source.step(1, step)
        vain = np.unique(batch.items[batch.rows.item[batch.rows.labels["rating"] < 4]])
        for item in vain:
            scores = np.zeros(31)
            scores[item] = 1.0  # what is positive scores 0, but for this item
            real = batch.rows.weight > 0
            shows = real & (batch.items[batch.rows.item] == item)
            asks = batch.rows.labels["rating"] >= 4
            queries = np.setdiff1d(batch.rows.query[shows], batch.rows.query[shows & asks])
            losses = losses_of(judged, batch, scores)
            owner = batch.rows.query[asks]
            for query in np.intersect1d(queries, owner):
                # 1 for the positive, and a share of what the item costs: its score squared, 1.
                assert losses[owner == query] == pytest.approx(1 + 1 / (owner == query).sum())
                seen += 1
    assert seen > 50


def test_what_is_shown_again_in_vain_stays_what_the_user_has():
    """Item 1 was clicked before items 2 and 3 were shown, and with them in vain."""
    judged = head()
    rows = [(1, 1, 1, 1), (1, 1, 0, 2), (1, 2, 1, 2), (1, 3, 0, 2)]
    data = with_taken(impressions(rows), {"a": judged})
    source = batches(
        data, negatives=Catalogue(most_items=1000), chronological=True, history_share=1 - 1e-9
    )
    made = (source.step(epoch, 0)[0] for epoch in range(1, 50))
    batch = next(batch for batch in made if (batch.rows.weight > 0).sum() < 4)
    assert batch.items[batch.rows.item[batch.rows.weight > 0]].tolist() == [2, 3]
    np.testing.assert_allclose(
        losses_of(judged, batch, [0, 0.9, 0.7, 0.4]), [pairwise([0.3])], rtol=1e-5
    )


@pytest.mark.parametrize("chronological", [False, True])
@pytest.mark.parametrize("batch_of", ["users", "rows"])
def test_no_history_and_no_own_item_was_shown_in_vain(batch_of, chronological):
    judged = head(label="rating", at_least=4.0)
    data = with_taken(planted(), {"a": judged})
    how = {"batch_of": batch_of, "chronological": chronological, "history_share": 0.6}
    source = batches(data, negatives=Catalogue(most_items=1000), global_batch=20, **how)
    liked = np.zeros((41, 31), bool)
    good = data.interactions["rating"] >= 4
    liked[data.interactions["user"][good], data.interactions["item"][good]] = True
    seen = 0
    for step in range(source.steps_per_epoch):
        (batch,) = source.step(1, step)
        history, own = batch.query.history, batch.own
        for owner, place in ((history.owners, history.places), (own.query, own.item)):
            real = owner >= 0
            users = batch.query.users[owner[real]]
            assert liked[users, batch.items[place[real]]].all()
            seen += real.sum()
    assert seen > 100
    # Rows that are not positive are targets all the same, for other heads.
    assert (batch.rows.labels["rating"] < 4).any()


def test_users_have_what_is_positive_for_any_retrieval_head():
    data = impressions([(1, 1, 1, 1), (1, 2, 0, 2), (1, 3, 2, 3), (1, 4, NAN, 4)])
    clicked, bought, everything = head(), head(at_least=2.0), head(label=None)

    def has(**heads):
        marked = with_taken(data, heads | {"rating": rating()})
        return Histories.of(marked, all_rows(data)).of_user(1).tolist()

    assert has(a=clicked) == [1, 3]
    assert has(a=bought) == [3]
    assert has(a=bought, b=clicked) == [1, 3]
    assert has(a=bought, b=everything) == [1, 2, 3, 4]
    assert has(a=head(has="all")) == [1, 2, 3, 4]
    assert has() == [1, 2, 3, 4]


class Scores:
    """A model whose query is the user's row of scores."""

    def __init__(self, judged, scores):
        self.heads = {"retrieval": judged}
        self._scores = np.float32(scores)

    def queries(self, inputs):
        self.histories = inputs.history.items.tolist()
        return {"retrieval": self._scores[inputs.users]}

    def candidates(self, rows):
        return {"retrieval": np.eye(self._scores.shape[1], dtype=np.float32)[rows.numpy()]}


def judge(judged, rows, known, scores, **sizes):
    data = with_taken(impressions(rows, **sizes), {"retrieval": judged})
    held_out = np.arange(known, len(rows))
    model = Scores(judged, scores)
    report = Evaluator(data, known=np.arange(known), held_out=held_out)(model, full=True)
    return report["retrieval"], model


def test_what_was_shown_in_vain_is_recommended_again_and_is_neither_history_nor_popular():
    # User 1 clicked item 1 and saw item 2 thrice in vain; later clicks item 2, having seen it once
    # more in vain. User 2 clicked item 3.
    rows = [(1, 1, 1, 1), *[(1, 2, 0, time) for time in (2, 3, 4)], (2, 3, 1, 1)]
    later = [(1, 2, 0, 5), (1, 2, 1, 6)]
    scores = [[0] * 4, [0, 9, 5, 3], [0] * 4]
    found, model = judge(head(), rows + later, 5, scores, num_items=3)
    # Of the items that user 1 does not have, 2 is before 3; item 3 is the more popular one.
    assert found.metrics["recall_at_1"] == 1.0
    assert found.baseline["recall_at_1"] == 0.0
    assert model.histories == [1]
    assert found.metrics["popularity_at_10"] == pytest.approx((0 + 1 / 2) / 2)

    found, model = judge(head(has="all"), rows + later, 5, scores, num_items=3)
    assert model.histories == [1, 2, 2, 2]
    assert found.metrics == {}


def test_held_out_rows_without_a_positive_one_give_no_figures():
    rows = [(1, 1, 1, 1), (1, 2, 0, 2), (1, 3, 0, 3)]
    found, _ = judge(head(), rows, 1, np.zeros((2, 4)))
    assert found.metrics == {}


def test_a_user_without_a_positive_row_has_nothing_and_costs_nothing():
    judged = head()
    data = with_taken(impressions([(1, 1, 1, 1), (1, 2, 0, 2), (2, 1, 0, 1)]), {"a": judged})
    (batch,) = batches(data, negatives=Catalogue(most_items=1000)).step(1, 0)
    found = losses_of(judged, batch, [0, 0.7, 0.4])
    np.testing.assert_allclose(found, [pairwise([0.3])], rtol=1e-5)
    assert Histories.of(data, all_rows(data)).of_user(2).tolist() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"has": "some"}, "`has` must be positive or all; got some"),
        ({"has": "all", "label": None}, "must be positive without a label"),
    ],
)
def test_a_head_that_says_nothing_of_what_users_have_is_refused(changed, said):
    with pytest.raises(UserError, match=said):
        head(**changed)


def test_a_label_that_no_row_to_train_on_reaches_is_refused():
    data = impressions([(1, 1, 0, 1), (1, 2, NAN, 2), (1, 3, 1, 3)])
    heads = {"a": implicit_squared(label="clicked")}
    with pytest.raises(UserError, match=r"heads.a.at_least` must be reached .* is 0; got 1"):
        recommender(with_taken(data, heads), heads, fit=np.arange(2))


def test_data_that_does_not_say_what_users_have_is_refused():
    heads = {"a": implicit_squared(label="rating", at_least=4.0)}
    with pytest.raises(UserError, match=r"heads.a` has a label.*with_taken"):
        recommender(planted(), heads)
