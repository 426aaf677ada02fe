"""What tables are taken for: by the names of their columns, and by what these hold."""

import numpy as np
import pyarrow as pa
import pytest

from mtrec.data.infer import propose
from mtrec.data.names import names_key, words
from mtrec.errors import UserError

USERS, ITEMS, ROWS = 40, 30, 600
RNG = np.random.default_rng(3)
USER = RNG.integers(0, USERS, ROWS)
ITEM = RNG.integers(0, ITEMS, ROWS)
TIME = 1_700_000_000 + np.sort(RNG.integers(0, 10**7, ROWS))
LEVELS = RNG.choice([1, 2, 3, 4, 5], ROWS, p=[0.06, 0.11, 0.27, 0.34, 0.22])
COUNTS = RNG.geometric(0.4, ROWS)


def log(**columns):
    """A log with these columns beside those of users and items, all as texts, as in a CSV file."""
    columns = {"user_id": USER, "item_id": ITEM, **columns}
    return pa.table(
        {
            name: pa.array([str(v) for v in values])
            for name, values in columns.items()
            if len(values)
        }
    )


def renamed(table, **names):
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def proposed(table, **more):
    return propose(table, **more)


@pytest.mark.parametrize(
    ("user", "item"),
    [
        ("userId", "movieId"),
        ("CUSTOMER_ID", "PRODUCT_ID"),
        ("CustomerID", "StockCode"),
        ("visitorid", "itemid"),
        ("reviewerID", "asin"),
        ("household_key", "product_no"),
        ("user_id:token", "item_id:token"),
        ("member", "article"),
        ("uid", "iid"),
        ("customers", "sku"),
    ],
)
def test_ids_are_found_by_the_words_of_shops_and_films(user, item):
    found = proposed(renamed(log(), user_id=user, item_id=item))
    assert (found.options["user_key"], found.options["item_key"]) == (user, item)


def test_a_name_falls_apart_into_its_words():
    assert words("SalesPrice") == words("SALES_PRICE") == words("sales price") == ["sales", "price"]
    assert words("customerid") == ["customer", "id"]
    # A property of the item is not its id.
    assert [names_key(n, "item") for n in ("product_id", "product", "product_class")] == [3, 2, 0]


def test_a_log_whose_names_say_nothing_asks_for_the_key():
    with pytest.raises(UserError, match=r"`user_key` must be given.* it has s, d, y. Set"):
        proposed(renamed(log(y=LEVELS), user_id="s", item_id="d"))
    given = {"user_key": "s", "item_key": "d"}
    found = proposed(renamed(log(y=LEVELS), user_id="s", item_id="d"), given=given)
    assert found.options["rating"] == "y"
    assert "y is a rating, by its few levels alone." in found.unsure


def test_the_only_ids_left_are_the_other_key_and_that_is_said():
    names = np.array([f"thing {i}" for i in range(ITEMS)])[ITEM]
    found = proposed(log(item_id=[], what=names, rating=LEVELS))
    assert found.options["item_key"] == "what"
    assert found.unsure[0] == "what are the items, as nothing else could be."


def test_two_columns_that_may_be_the_item_are_asked_about():
    other = RNG.integers(0, 20, ROWS)
    with pytest.raises(UserError, match=r"`item_key` must be given.* item_id, product_id"):
        proposed(log(product_id=other))
    # A product that has several articles is no rival of its articles.
    found = proposed(log(item_id=[], article_id=ITEM, product_id=ITEM // 3))
    assert found.options["item_key"] == "article_id"
    assert found.options["item_columns"] == ["product_id"]


def test_a_file_without_names_is_refused():
    with pytest.raises(UserError, match=r"must hold the names of its columns; got 196, 242, 3"):
        proposed(renamed(log(rating=LEVELS), user_id="196", item_id="242", rating="3"))


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("%Y-%m-%dT%H:%M:%S", None),
        ("%Y-%m-%d", None),
        ("%m/%d/%Y", "%m/%d/%Y"),
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"),
        ("%Y%m%d", "%Y%m%d"),
        ("%d/%m/%y", "%d/%m/%y"),
        ("%s", None),
        ("%s000", "ms"),
    ],
)
def test_dates_are_read_as_they_are_written(written, form):
    days = np.datetime64("2023-01-03T05:06:07") + np.arange(ROWS) * np.timedelta64(20, "h")
    texts = [moment.item().strftime(written) for moment in days]
    found = proposed(log(bought=texts) if form is None and written != "%s" else log(ts=texts))
    assert found.options["timestamp"] in ("bought", "ts")
    assert found.options["timestamp_format"] == form


def test_a_date_that_can_be_read_in_two_ways_is_asked_about_unless_one_is_far_likelier():
    spread = [f"{1 + r % 12}/{1 + r // 7 % 12}/2000" for r in range(ROWS)]
    with pytest.raises(UserError, match=r"'1/1/2000' .*as %m/%d/%Y or as %d/%m/%Y"):
        proposed(log(date=spread))
    given = {"timestamp_format": "%d/%m/%Y"}
    assert proposed(log(date=spread), given=given).options["timestamp_format"] == "%d/%m/%Y"
    # Twelve days of November, or the eleventh of twelve months.
    found = proposed(log(date=[f"11/{1 + r // 50}/2000" for r in range(ROWS)]))
    assert found.options["timestamp_format"] == "%m/%d/%Y"


def test_of_several_times_a_birthday_and_a_release_are_not_the_one():
    day = np.datetime64("1990-01-01")
    found = proposed(log(birth_date=day + USER * 400, when=TIME, released_date=day + ITEM * 300))
    assert found.options["timestamp"] == "when"
    with pytest.raises(UserError, match=r"`timestamp` must be given.* ordered_at, shipped_at"):
        proposed(log(ordered_at=TIME, shipped_at=RNG.permutation(TIME)))
    assert proposed(log(timestamp=TIME, date=TIME // 86400 * 86400)).options["timestamp"] == (
        "timestamp"
    )


def test_counted_days_are_times_and_a_log_without_times_has_none():
    assert proposed(log(day=np.arange(ROWS) // 20)).options["timestamp_format"] == "D"
    found = proposed(log(rating=LEVELS))
    assert found.options["timestamp"] is None
    assert "No column holds times: the order of rows is all that is known." in found.unsure


def test_a_property_of_users_or_items_is_told_from_what_came_of_a_row():
    group = np.array(["f", "m", "?"])[USER % 3]
    kind = np.array(["tea", "wine", "bread", "jam"])[ITEM % 4]
    # One in thirty items has two kinds.
    kind = np.where((ITEM == 7) & (np.arange(ROWS) % 2 == 0), "jam", kind)
    found = proposed(log(timestamp=TIME, age_group=group, subclass=kind, quantity=COUNTS))
    assert found.options["user_columns"] == ["age_group"]
    assert found.options["item_columns"] == ["subclass"]
    assert found.options["labels"] == ["quantity"]
    assert found.features["item"] == {
        "subclass": {"_target_": "mtrec.Categorical", "column": "subclass"}
    }


def test_what_hardly_ever_varies_belongs_to_nobody():
    rare = np.zeros(ROWS, int)
    rare[5] = 1
    found = proposed(log(returned=rare))
    assert found.options["user_columns"] == found.options["item_columns"] == []


def test_one_value_a_request_is_no_label():
    basket = np.sort(RNG.integers(0, 150, ROWS))
    buyer, shop = basket % USERS, RNG.integers(1, 6, 150)[basket]
    found = proposed(log(user_id=buyer, basket_id=basket, store=shop, quantity=COUNTS))
    assert found.options["labels"] == ["quantity"]
    assert "basket_id tells requests apart." in found.unsure
    assert found.options["request"] == "basket_id"
    assert found.options["context"] == ["store"]
    assert found.features["request"] == {
        "store": {"_target_": "mtrec.Categorical", "column": "context.store"}
    }


def test_what_is_known_only_after_a_request_is_no_context():
    basket = np.sort(RNG.integers(0, 150, ROWS))
    buyer, size = basket % USERS, np.bincount(basket)[basket]
    total, kind = np.bincount(basket, COUNTS)[basket], np.array(["a", "b", "c"])[basket % 3]
    told = {"kind": kind, "basket_total": total, "lines": size, "quantity": COUNTS}
    found = proposed(log(user_id=buyer, basket_id=basket, **told))
    assert found.options["context"] == ["kind"]
    late = [sentence for sentence in found.unsure if "known only afterwards" in sentence]
    assert "basket_total is the sum of the label quantity over a request." in late[0]
    assert "lines is the number of rows of a request." in late[1]
    # A total of prices that the log lacks grows with the rows; an amount is one by its name.
    paid = np.bincount(basket, RNG.lognormal(1, 0.5, ROWS))[basket].round(2)
    told |= {"bill": paid, "minutes_spent": RNG.integers(1, 50, 150)[basket]}
    found = proposed(log(user_id=buyer, basket_id=basket, **told))
    assert found.options["context"] == ["kind"]
    assert any("bill was left out" in sentence for sentence in found.unsure)
    # Who says that it is known is believed.
    given = {"context": ["lines"]}
    found = proposed(log(user_id=buyer, basket_id=basket, **told), given=given)
    assert found.options["context"] == ["lines"]
    assert found.features["request"]["lines"]["column"] == "context.lines"


def test_a_state_that_tells_what_came_of_a_row_is_no_context():
    """Each row has a time of its own, and a channel of its own name by which it was returned."""
    returned = RNG.integers(0, 2, ROWS)
    channel = np.where(returned, RNG.choice(["post", "desk"], ROWS), "none")
    moment = 1_700_000_000 + np.arange(ROWS) * 977
    found = proposed(log(timestamp=moment, liked=returned, return_channel=channel))
    assert found.options["context"] == []
    assert any("rows of one value have one liked" in sentence for sentence in found.unsure)


def test_users_who_take_items_again_at_other_times_are_told_from_those_who_do_not():
    assert proposed(log(timestamp=TIME)).options["repeats"] is True
    once = np.unique(np.stack([USER, ITEM]), axis=1, return_index=True)[1]
    columns = {"user_id": USER[once], "item_id": ITEM[once], "timestamp": TIME[once]}
    assert proposed(log(**columns)).options["repeats"] is False
    # Rows of one time are one basket with several pieces.
    twice = {name: np.repeat(values, 2) for name, values in columns.items()}
    assert proposed(log(**twice)).options["repeats"] is False
    # Who rates again has changed their mind; what is given stays.
    assert "repeats" not in proposed(log(timestamp=TIME, rating=LEVELS)).options
    given = {"repeats": False}
    assert proposed(log(timestamp=TIME), given=given).options["repeats"] is False


def test_of_requests_of_one_row_the_context_is_known_by_its_name():
    """Each row has a time of its own, so all that a row has belongs to its request."""
    device = RNG.choice(["phone", "web"], ROWS)
    moment = 1_700_000_000 + np.arange(ROWS) * 977
    found = proposed(log(timestamp=moment, device=device, price=RNG.integers(1, 9, ROWS)))
    assert found.options["context"] == ["device"]
    assert found.features["request"]["device"]["column"] == "context.device"


def test_labels_become_heads_whose_costs_are_those_of_a_constant():
    seconds = RNG.lognormal(4, 1, ROWS).round(2)
    click = (RNG.random(ROWS) < 0.2).astype(int)
    found = proposed(log(rating=LEVELS, watch_time=seconds, liked=click))
    heads = {label.name: (label.head, label.at_least) for label in found.labels}
    assert heads == {
        "rating": ("rating", None),
        "watch_time": ("log", None),
        "liked": ("binary", 1),
    }
    costs = {label.name: label.cost for label in found.labels}
    assert costs["rating"] == pytest.approx(np.var(LEVELS))
    assert costs["watch_time"] == pytest.approx(np.var(np.log(seconds + 1)))
    share = click.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert costs["liked"] == pytest.approx(entropy)
    assert found.positive is None


def test_clicks_on_what_was_shown_are_what_retrieval_learns_from():
    click = (RNG.random(ROWS) < 0.2).astype(int)
    found = proposed(log(click=click, purchase=click * (RNG.random(ROWS) < 0.3)))
    assert found.positive == "click"
    assert [label.name for label in found.labels] == ["click", "purchase"]


def test_true_and_false_are_two_values():
    found = proposed(log(liked=np.where(LEVELS > 3, "True", "False")))
    assert [(label.head, label.at_least) for label in found.labels] == [("binary", 1)]


def test_of_several_silent_ratings_one_is_asked_for_and_a_named_one_wins():
    other = RNG.permutation(LEVELS)
    with pytest.raises(UserError, match=r"`rating` must be given.* aa, bb"):
        proposed(log(aa=LEVELS, bb=other))
    found = proposed(log(aa=LEVELS, stars=other))
    assert found.options["rating"] == "stars"
    assert "aa was left out: a rating has been found." in found.unsure
    assert proposed(log(aa=LEVELS, bb=other), given={"rating": None}).labels == []


def test_what_may_be_otherwise_is_said():
    amounts = RNG.lognormal(2, 1, ROWS).round(2)
    noise = RNG.normal(0, 1, ROWS).round(3)
    implicit = np.where(RNG.random(ROWS) < 0.5, 0, LEVELS)
    seldom = np.where(np.arange(ROWS) % 20 == 0, amounts, 0)
    columns = {"asset": amounts, "coupon": seldom, "drift": noise, "rating": implicit}
    found = proposed(log(cost_x=amounts, **columns))
    assert "coupon was left out: 95% of the rows have none of it." in found.unsure
    assert "coupon" not in [label.column for label in found.labels]
    assert "asset is an amount, by its values alone." in found.unsure
    assert any(s.startswith("drift was left out") for s in found.unsure)
    assert "rating is a rating, of which 0 may mean none." in found.unsure
    back = proposed(log(quantity=COUNTS - 3))
    assert "quantity was left out: an amount below 0 has no logarithm." in back.unsure


def test_numbers_of_rows_are_no_label():
    assert proposed(log(rownames=np.arange(ROWS) + 1, rating=LEVELS)).options["labels"] == []


def test_files_of_users_and_items_give_keys_titles_bags_and_features():
    users = pa.table(
        {
            "member": [str(u) for u in range(USERS)],
            "age": [str(18 + u) for u in range(USERS)],
            "sex": ["f" if u % 2 else "m" for u in range(USERS)],
            "zip_code": [str(10_000 + 7 * u) for u in range(USERS)],
        }
    )
    items = pa.table(
        {
            "code": [str(i) for i in range(ITEMS)],
            "title": [f"A, the {i}" for i in range(ITEMS)],
            "genres": [("a|b", "b", "a|c", "c")[i % 4] for i in range(ITEMS)],
            "about": [f"a tale of {i} and one more {i % 7}" for i in range(ITEMS)],
            "score": [str(1.5 + i / 10) for i in range(ITEMS)],
            "class_code": [str(110_000 + i % 15) for i in range(ITEMS)],
            "link": [f"https://x.org/{i}" for i in range(ITEMS)],
        }
    )
    rows = renamed(log(rating=LEVELS), user_id="member", item_id="code")
    found = proposed(rows, users=users, items=items)
    assert (found.options["user_key"], found.options["item_key"]) == ("member", "code")
    assert found.options["title"] == "title"
    assert (found.options["bag_columns"], found.options["bag_separator"]) == (["genres"], "|")
    kinds = {
        name: node["_target_"].removeprefix("mtrec.")
        for side in ("user", "item")
        for name, node in found.features[side].items()
    }
    assert kinds == {
        "age": "Bucketized",
        "sex": "Categorical",
        "genres": "Categorical",
        "about": "Text",
        "score": "Numeric",
        "class_code": "Categorical",
    }
    assert "zip_code was left out: nearly every one has its own." in found.unsure


def test_what_is_given_stays():
    group = np.array(["f", "m", "?"])[USER % 3]
    given = {"user_columns": [], "labels": ["quantity"], "timestamp": None}
    found = proposed(log(time=TIME, group=group, quantity=COUNTS, liked=LEVELS > 3), given=given)
    assert found.options["user_columns"] == []
    assert found.options["labels"] == ["quantity"]
    assert found.options["timestamp"] is None
    assert found.features["user"] == {}


def test_lists_of_fractions_are_vectors():
    rows = {
        "item_id": [str(i) for i in range(ITEMS)],
        "cover": [[0.5, i / 7] for i in range(ITEMS)],
    }
    found = proposed(log(rating=LEVELS), items=pa.table(rows))
    assert found.features["item"] == {"cover": {"_target_": "mtrec.Vectors", "column": "cover"}}


def test_parts_of_a_time_and_places_in_a_sequence_are_neither_times_nor_ratings():
    hours, places = RNG.integers(0, 24, ROWS), RNG.integers(1, 10, ROWS)
    found = proposed(log(order_hour_of_day=hours, day_of_week=hours % 7, add_to_cart_order=places))
    assert found.options["timestamp"] is None
    assert found.labels == []
