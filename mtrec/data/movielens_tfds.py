"""The door to TensorFlow Datasets (TFDS) and its MovieLens builders."""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.data.columns import Bags, Columns
from mtrec.data.sources import SourceError

_AGES = {"100k": "raw_user_age", "1m": "bucketized_user_age"}
_INTERACTIONS = ("user_id", "movie_id", "user_rating", "timestamp")
_USERS = ("user_gender", "user_occupation_text", "user_zip_code")


def prepare(variant: str, folder: Path, data_dir: Path) -> tuple[Columns, Columns]:
    """Lets TFDS read the published files in `folder` and write `data_dir`, then reads that.

    Raises:
        SourceError: TFDS cannot read the files.
    """
    with _quiet_tfds() as tfds:
        for table in ("ratings", "movies"):
            builder = tfds.builder(f"movielens/{variant}-{table}", data_dir=str(data_dir))
            examples = builder._generate_examples(dir_path=str(folder))
            # The builder would download; it has no option for a folder.
            builder._split_generators = lambda _, examples=examples: {"train": examples}
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
    return read(variant, data_dir)


def read(variant: str, data_dir: Path) -> tuple[Columns, Columns]:
    """Returns the columns of ratings, in published order, and of movies from a prepared directory.

    Both have the names TFDS gives them; the age is `user_age` whichever of them is there.

    Raises:
        SourceError: The edition is not prepared there, or its order is lost.
    """
    with _quiet_tfds() as tfds:
        builders = {}
        for table in ("ratings", "movies"):
            builders[table] = tfds.builder(f"movielens/{variant}-{table}", data_dir=str(data_dir))
            if not builders[table].is_prepared():
                raise SourceError(f"movielens/{variant}-{table} is not prepared there")
        return _ratings(tfds, variant, builders["ratings"]), _movies(tfds, builders["movies"])


def prepared_files(variant: str, data_dir: str | None) -> list[Path]:
    """Returns the files below `data_dir` that `read` would read."""
    root = Path(data_dir).expanduser() if data_dir is not None else None
    return sorted(root.glob(f"movielens/{variant}-*/*/*")) if root is not None else []


def original_order(num_rows: int) -> np.ndarray:
    """Returns, for each published row, the position TFDS wrote it to: int64 `[num_rows]`.

    TFDS sorts the records of a split by the MD5 of the split's name and the record's key, and the
    key of a MovieLens record is its row number.
    """
    hashes = [hashlib.md5(f"train{row}".encode()).digest() for row in range(num_rows)]
    written = sorted(range(num_rows), key=hashes.__getitem__)
    positions = np.empty(num_rows, dtype=np.int64)
    positions[written] = np.arange(num_rows)
    return positions


def _ratings(tfds: Any, variant: str, builder: Any) -> Columns:
    names = [*_INTERACTIONS, *_USERS, _AGES[variant]] if variant in _AGES else [*_INTERACTIONS]
    rows = builder.as_dataset(
        split="train",
        batch_size=-1,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(dict.fromkeys(names, True)),
        # One file after the other, as they were written.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    written = tfds.as_numpy(rows)
    if builder.info.disable_shuffling:
        order = np.arange(len(written["user_id"]))
    else:
        order = original_order(len(written["user_id"]))
    ratings = {name: _text(written[name])[order] for name in names}
    if variant in _AGES:
        ratings["user_age"] = ratings.pop(_AGES[variant])
    _check_order(variant, ratings)
    return ratings


def _movies(tfds: Any, builder: Any) -> Columns:
    genres = builder.info.features["movie_genres"].feature
    movies = list(tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)))
    labels = [[genres.int2str(int(label)) for label in movie["movie_genres"]] for movie in movies]
    return {
        "movie_id": np.array([movie["movie_id"].decode() for movie in movies]),
        "movie_title": np.array([movie["movie_title"].decode() for movie in movies]),
        "movie_genres": Bags.of(labels),
    }


def _check_order(variant: str, ratings: Columns) -> None:
    """Refuses rows that did not come back in their published order."""
    users = ratings["user_id"].astype(np.int64)
    if variant == "100k":
        in_order = (users[0], ratings["movie_id"][0]) == (196, "242")
    else:
        in_order = bool(np.all(users[1:] >= users[:-1]))
    if not in_order:
        raise SourceError("its rows could not be put back into the order they were published in")


def _text(values: np.ndarray) -> np.ndarray:
    """Decodes a column of UTF-8 strings; returns any other as it is."""
    return np.char.decode(values.astype(bytes), "utf-8") if values.dtype == object else values


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[Any]:
    """Imports TFDS, keeps its output off the screen and turns its errors into `SourceError`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    temporary = tempfile.tempdir
    try:
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as aside:
            tempfile.tempdir = aside  # each builder makes a folder there, and leaves it
            yield tfds
    except SourceError:
        raise
    except Exception as error:  # whatever a parser makes of malformed data
        detail = " ".join(str(error).split())[:200]
        raise SourceError(
            f"TensorFlow Datasets could not read it ({type(error).__name__}: {detail})"
        ) from error
    finally:
        tempfile.tempdir = temporary
        logging.set_verbosity(verbosity)
