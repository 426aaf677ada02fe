"""Made-up interactions with planted factors, for tests, demonstrations and measures of scale."""

import itertools

import numpy as np

from mtrec.data.cache import digest_of
from mtrec.data.columns import Columns, with_unknown
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError

_RATING_SCALE = (1.0, 5.0)
_MIDDLE = 3.0
_START = 1_000_000_000  # seconds; a day in September 2001
_GENRES_AN_ITEM = 3
# A user looks at this many items drawn by popularity and takes the one that suits best.
_ITEMS_LOOKED_AT = 8
# How much taste counts against chance in that choice.
_TASTE = 2.0
_CHUNK = 1 << 15
# Rounds after which missing pairs are drawn uniformly, so that a dense table gets done.
_ROUNDS_BY_POPULARITY = 20


def load(
    *,
    num_users: int,
    num_items: int,
    num_interactions: int,
    num_factors: int,
    popularity_exponent: float,
    most_repeats: int,
    noise: float,
    rating_share: float,
    rating_agreement: float,
    seed: int,
) -> Dataset:
    """Returns a seeded dataset whose users choose and rate items by planted factors.

    User u and item i have standard normal factors and the affinity `a = <u, i> / sqrt(F)`. Each
    interaction belongs to a user drawn by a log-normal activity, who looks at eight items drawn in
    proportion to `rank ** -popularity_exponent` and takes the one with the largest
    `2 a + Gumbel noise`. No pair is drawn twice; each then comes as often as is drawn evenly from 1
    to `most_repeats`, at moments of its own. The rating is `3 + a' + quality of i + noise`, rounded
    to a whole number from 1 to 5, where `rating_agreement` says how far a' goes with a.
    Rows are in order of time and no two have the same time.

    Users have `user_id` and `user_gender`, which follows the first factor; items have `item_id`,
    `item_title` and the bag `item_genres`, the factors in which the item is largest.

    Args:
        num_users: Users U.
        num_items: Items C.
        num_interactions: Rows, at most half of U · C.
        num_factors: Width F of the planted factors.
        popularity_exponent: 0 makes all items equally popular; 1 is Zipf's law.
        most_repeats: How often a user takes an item at most; 1 for once each.
        noise: Standard deviation of the noise in a rating, in stars.
        rating_share: Share of the rows that carry a rating, 0 to 1; the others have NaN.
        rating_agreement: Correlation of the affinity that ratings follow with the one that choices
            follow, -1 to 1: people choose what they will like (1), or for other reasons (0).
        seed: Seed of everything.

    Raises:
        UserError: A size is out of its range.
    """
    _check(num_users, num_items, num_interactions, num_factors, most_repeats, noise)
    _check_range("rating_share", rating_share, low=0)
    _check_range("rating_agreement", rating_agreement, low=-1)
    rng = np.random.default_rng(seed)
    user_factors = rng.standard_normal((num_users, num_factors), dtype=np.float32)
    item_factors = rng.standard_normal((num_items, num_factors), dtype=np.float32)
    popularity = rng.permutation(np.arange(1, num_items + 1) ** -popularity_exponent)
    times = _repeats(num_interactions, most_repeats, np.random.default_rng([seed, 2]))
    pairs = _pairs(rng, user_factors, item_factors, popularity, len(times))
    user, item = _repeated(pairs, times, np.random.default_rng([seed, 3]))
    quality = 0.5 * rng.standard_normal(num_items, dtype=np.float32)
    likes = _turned(user_factors, item_factors, rating_agreement, np.random.default_rng([seed, 1]))
    stars = _MIDDLE + quality[item] + _affinity(*likes, user, item)
    stars += noise * rng.standard_normal(num_interactions, dtype=np.float32)
    stars = np.clip(np.rint(stars), *_RATING_SCALE)
    stars[rng.random(num_interactions) >= rating_share] = np.nan
    interactions: Columns = {
        "user": (user + 1).astype(np.int32),
        "item": (item + 1).astype(np.int32),
        "rating": stars.astype(np.float32),
        "timestamp": _START + np.cumsum(rng.integers(1, 60, num_interactions)),
    }
    users = _users(rng, user_factors)
    items = _items(item_factors)
    return Dataset(
        name="synthetic",
        users=users,
        items=items,
        interactions=interactions,
        user_key="user_id",
        item_key="item_id",
        title="item_title",
        rating_scale=_RATING_SCALE,
        source=f"synthetic, seed {seed}",
        digest=digest_of(users=users, items=items, interactions=interactions),
    )


def _pairs(
    rng: np.random.Generator,
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    popularity: np.ndarray,
    num_pairs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws distinct pairs of user and item, int64 `[num_pairs]` each, in random order."""
    num_users, num_items = len(user_factors), len(item_factors)
    active = np.cumsum(rng.lognormal(size=num_users))
    popular = np.cumsum(popularity)
    pairs = np.empty(0, dtype=np.int64)  # user · C + item, sorted
    for turn in itertools.count():
        missing = num_pairs - len(pairs)
        if missing == 0:
            break
        if turn < _ROUNDS_BY_POPULARITY:
            user = _draw(rng, active, missing)
            item = _choose(rng, user_factors, item_factors, popular, user)
        else:
            user = rng.integers(num_users, size=missing)
            item = rng.integers(num_items, size=missing)
        drawn = np.sort(user * num_items + item)
        drawn = drawn[np.diff(drawn, prepend=-1) > 0]
        found = np.searchsorted(pairs, drawn).clip(max=max(len(pairs) - 1, 0))
        new = drawn if not len(pairs) else drawn[pairs[found] != drawn]
        # Two sorted runs: the stable sort merges them in linear time.
        pairs = np.sort(np.concatenate([pairs, new]), kind="stable")
    rng.shuffle(pairs)
    return np.divmod(pairs, num_items)


def _repeats(num_interactions: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """How often each pair comes, 1 to `most`, so that there are `num_interactions` rows."""
    times = rng.integers(1, most + 1, num_interactions)
    total = np.cumsum(times)
    last = int(np.searchsorted(total, num_interactions))
    times[last] -= total[last] - num_interactions
    return times[: last + 1]


def _repeated(
    pairs: tuple[np.ndarray, np.ndarray], times: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of pairs, each as often as `times` says, `[rows]`, in random order."""
    if times.max() == 1:
        return pairs
    row = rng.permutation(np.repeat(np.arange(len(times)), times))
    return pairs[0][row], pairs[1][row]


def _choose(
    rng: np.random.Generator,
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    popular: np.ndarray,
    user: np.ndarray,
) -> np.ndarray:
    """Returns the item each user takes, int64 `[len(user)]`, out of a few popular ones."""
    chosen = np.empty_like(user)
    for start in range(0, len(user), _CHUNK):
        part = user[start : start + _CHUNK]
        seen = _draw(rng, popular, len(part) * _ITEMS_LOOKED_AT).reshape(len(part), -1)
        appeal = _TASTE * _affinity(user_factors, item_factors, part, seen)
        appeal += rng.gumbel(size=seen.shape)
        best = appeal.argmax(axis=1)[:, None]
        chosen[start : start + _CHUNK] = np.take_along_axis(seen, best, axis=1)[:, 0]
    return chosen


def _affinity(
    user_factors: np.ndarray, item_factors: np.ndarray, user: np.ndarray, item: np.ndarray
) -> np.ndarray:
    """Returns `<u, i> / sqrt(F)` for row numbers `[rows]` and `[rows]` or `[rows, seen]`."""
    affinity = np.empty(item.shape, dtype=np.float32)
    for start in range(0, len(user), _CHUNK):
        part = slice(start, start + _CHUNK)
        affinity[part] = np.einsum(
            "b...f,bf->b...", item_factors[item[part]], user_factors[user[part]]
        )
    return affinity / np.float32(np.sqrt(user_factors.shape[1]))


def _turned(
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    agreement: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of users and items whose affinity has the correlation `agreement` with the given."""
    if agreement == 1:
        return user_factors, item_factors
    # The affinity's correlation is the product of both sides' cosines.
    cosine = np.sqrt(abs(agreement))
    turned = [
        (cosine * own + np.sqrt(1 - cosine**2) * rng.standard_normal(own.shape)).astype(np.float32)
        for own in (user_factors, item_factors)
    ]
    return turned[0] * np.float32(np.sign(agreement) or 1.0), turned[1]


def _draw(rng: np.random.Generator, cumulated: np.ndarray, size: int) -> np.ndarray:
    """Draws `size` row numbers in proportion to weights, given their cumulated sum."""
    # Searching in order and shuffling afterwards is several times as fast: it stays in the cache.
    drawn = np.searchsorted(cumulated, np.sort(rng.random(size)) * cumulated[-1], side="right")
    rng.shuffle(drawn)
    return drawn.clip(max=len(cumulated) - 1)  # rounding may reach the end


def _users(rng: np.random.Generator, factors: np.ndarray) -> Columns:
    numbers = np.arange(1, len(factors) + 1)
    female = factors[:, 0] + rng.logistic(scale=0.5, size=len(factors)) > 0
    return {
        "user_id": with_unknown(_strings(numbers)),
        "user_gender": with_unknown(np.where(female, "F", "M")),
    }


def _items(factors: np.ndarray) -> Columns:
    item_ids = _strings(np.arange(1, len(factors) + 1))
    names = np.array([f"genre {number}" for number in range(1, factors.shape[1] + 1)])
    largest = np.argsort(-factors, axis=1)[:, :_GENRES_AN_ITEM]  # [C, L]
    belongs = np.take_along_axis(factors, largest, axis=1) > 0.5
    belongs[:, 0] = True
    return {
        "item_id": with_unknown(item_ids),
        "item_title": with_unknown(np.char.add("Item ", item_ids)),
        "item_genres": with_unknown(np.where(belongs, names[largest], "")),
    }


def _strings(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(f"<U{len(str(numbers[-1]))}")


def _check(
    num_users: int,
    num_items: int,
    num_interactions: int,
    num_factors: int,
    most_repeats: int,
    noise: float,
) -> None:
    sizes = {
        "num_users": num_users,
        "num_items": num_items,
        "num_interactions": num_interactions,
        "num_factors": num_factors,
    }
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"`{name}` must be at least 1; got {size}. Set `{name}`=100.")
    if most_repeats < 1:
        raise UserError(
            f"`most_repeats` must be at least 1; got {most_repeats}. Set `most_repeats`=1."
        )
    if num_interactions > num_users * num_items // 2:
        raise UserError(
            f"`num_interactions` must be at most half of users times items "
            f"({num_users * num_items // 2}); got {num_interactions}. "
            f"Set `num_interactions`={max(1, num_users * num_items // 10)}."
        )
    if noise < 0:
        raise UserError(f"`noise` must not be negative; got {noise}. Set `noise`=0.5.")


def _check_range(name: str, value: float, *, low: int) -> None:
    if not low <= value <= 1:
        raise UserError(f"`{name}` must lie from {low} to 1; got {value}. Set `{name}`=1.")
