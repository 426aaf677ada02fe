"""What is counted of a dataset before training, by hand, and what it is warned of."""

from dataclasses import replace

import numpy as np
import pytest
from small_data import planted, written_out

from mtrec.data.facts import facts_of
from mtrec.data.split import Split, split
from mtrec.reports import data_page

# User, item, rating and time; the fourth is a repeat of the first, the last a copy of the fifth.
ROWS = [
    (1, 1, 2, 10),
    (1, 2, 5, 20),
    (2, 1, np.nan, 30),
    (1, 1, 4, 40),
    (3, 4, 4, 50),
    (3, 4, 4, 50),
]


@pytest.fixture
def small():
    data = written_out(ROWS, num_users=4, num_items=5)
    age, kind = np.float32([np.nan, 30, np.nan, 40, 50]), ["", "a", "", "b", "c", "d"]
    users, items = {**data.users, "age": age}, {**data.items, "kind": np.array(kind)}
    return replace(data, users=users, items=items)


def parts_of(fit, validation, test):
    return Split(*(np.array(rows, np.int64) for rows in (fit, validation, test)))


def test_the_facts_of_a_small_log_are_hand_worked(small):
    facts = facts_of(small, parts_of([0, 1], [2], [3, 4, 5]))
    # Three users and three items have rows, in four pairs.
    assert (facts.rows, facts.users, facts.items) == (6, 3, 3)
    assert facts.density == pytest.approx(4 / 9)
    assert facts.repeats == pytest.approx(2 / 6)
    assert (facts.copies, facts.span) == (1, (10, 50))
    validation, test = facts.parts
    assert validation[1:] == (1, 1.0, 0.0, 0.0, 0.0)
    assert test[1:] == pytest.approx((3, 2 / 3, 2 / 3, 1 / 3, 0.0))
    assert facts.missing == pytest.approx(
        {"users.age": 1 / 4, "items.kind": 1 / 5, "interactions.rating": 1 / 6}
    )
    # Of items with 3, 2 and 1 rows, two thirds of the way is the second.
    assert facts.popularity[0] == 0
    assert np.interp(2 / 3, np.linspace(0, 1, 101), facts.popularity) == pytest.approx(
        5 / 6, abs=0.01
    )
    (rating,) = facts.labels
    assert (rating.edges, rating.counts) == ([2, 4, 5], [1, 3, 1])
    assert (rating.filled, rating.mean) == pytest.approx((5 / 6, 19 / 5))
    assert facts.leaks == []


def test_rows_that_are_in_two_parts_are_a_leak(small):
    facts = facts_of(small, parts_of([0, 1, 4], [2], [3, 5]))
    assert facts.leaks == ["rows of test that are like one of another part in every column: 1."]


def test_a_feature_that_is_a_label_or_tells_it_is_a_leak():
    data = planted(rating_share=1.0)
    log = data.interactions
    means = np.bincount(log["item"], log["rating"]) / np.maximum(np.bincount(log["item"]), 1)
    own = means / 3
    given = {
        **log,
        "rating": own[log["item"]].astype(np.float32),
        "tenfold": (10 * own[log["item"]] + 3).astype(np.float32),
        "noise": np.random.default_rng(0).random(len(own[log["item"]]), np.float32),
    }
    leaky = replace(data, items={**data.items, "score": own}, interactions=given)
    parts = split(leaky, kind="random", seed=1, train_share=0.8, validation_share=0.1)
    leaks = facts_of(leaky, parts).leaks
    assert "items.score is the label rating, in more than 99 % of the rows." in leaks
    assert "items.score tells the label tenfold: their correlation is above 0.999." in leaks
    assert not any("noise" in leak for leak in leaks)
    assert facts_of(data, parts).leaks == []


def test_context_that_is_known_only_afterwards_is_a_leak():
    data = planted(rating_share=1.0)
    log = data.interactions
    rows, rng = len(log["user"]), np.random.default_rng(0)
    basket = (log["user"] * 3 + rng.integers(0, 3, rows)).astype(np.int32)
    total, lines = np.bincount(basket, log["rating"])[basket], np.bincount(basket)[basket]
    came = np.where(log["rating"] > 3, "liked", "not")
    requests = {
        "total": np.append(np.nan, total).astype(np.float32),
        "lines": np.append(np.nan, lines).astype(np.float32),
        "came": np.array(["", *came]),
        "device": np.array(["", *np.array(["web", "phone"])[basket % 2]]),
    }
    liked = (log["rating"] > 3).astype(np.float32)
    given = {**log, "request": basket, "liked": liked}
    leaky = replace(data, interactions=given, requests=requests)
    parts = split(leaky, kind="random", seed=1, train_share=0.8, validation_share=0.1)
    leaks = facts_of(leaky, parts).leaks
    assert "context.total is the sum of the label rating over a request." in leaks
    assert "context.lines is the number of rows of a request." in leaks
    assert "context.came tells the label liked: rows of one value have one liked." in leaks
    assert not any("device" in leak for leak in leaks)


def test_amounts_with_a_long_tail_have_bars_that_grow():
    data = planted(rating_share=1.0)
    rows = len(data.interactions["user"])
    amounts = np.random.default_rng(0).lognormal(2, 2, rows).astype(np.float32)
    # On the logarithm's scale and back, 8 and 29 become more.
    amounts += 8 - amounts.min()
    data = replace(data, interactions={**data.interactions, "spend": amounts})
    parts = split(data, kind="random", seed=1, train_share=0.8, validation_share=0.1)
    spend = next(label for label in facts_of(data, parts).labels if label.name == "spend")
    assert spend.logarithmic
    assert sum(spend.counts) == rows
    widths = np.diff(spend.edges)
    assert (widths[1:] > widths[:-1]).all()
    assert np.count_nonzero(spend.counts) > 15


def test_the_page_and_the_lines_say_what_was_counted(small):
    facts = facts_of(small, parts_of([0, 1, 4], [2], [3, 5]))
    page = data_page.page(facts, title="<shop>", source="log.csv")
    assert "<h1>&lt;shop&gt;</h1>" in page
    assert page.count("<rect") == 3
    assert "4: 3 rows" in page
    assert "rows of test that are like one of another part" in page
    told = dict(data_page.lines(facts))
    assert told["density"] == "44.444% of 3 users x 3 items"
    assert told["times"] == "1970-01-01 to 1970-01-01, 1 days"
    assert told["test"].startswith("0.0% cold users, 0.0% cold items, 100.0% repeats, 50% earlier")
    assert "leak" in told
