"""Where the files of MovieLens come from: a local copy, GroupLens, or the package index.

Each place hands over a folder with the files of one edition as GroupLens publishes them, or says in
a few words why it cannot. MovieLens' licence lets nobody redistribute the data, so none is part of
mtrec.
"""

import csv
import hashlib
import http.client
import io
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# GroupLens must answer within this time, or the next place is tried.
_PROBE_SECONDS = 4.0
_STALL_SECONDS = 15.0

_RECBOLE = "recbole==1.2.1"
_RECBOLE_FOLDER = "recbole/dataset_example/ml-100k"
_RECBOLE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
# The titles in which RecBole's copy differs from u.item, as u.item has them.
_RECBOLE_TITLES = {
    "267": "unknown",
    "1128": "Heidi Fleiss: Hollywood Madam (1995) ",
    "1201": "Marlene Dietrich: Shadow and Light (1996) ",
    "1635": "Two Friends (1986) ",
}
# The order of the flags in u.item.
_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


class SourceError(Exception):
    """Why a place has nothing to give, in a few words."""


@dataclass(frozen=True)
class Edition:
    """One edition of MovieLens as GroupLens publishes it.

    Attributes:
        folder: Name of the folder inside the archive.
        files: The files that are read.
        sha256: Of the published zip, the one TensorFlow Datasets knows.
        in_recbole: Whether the RecBole wheel carries a copy.
    """

    folder: str
    files: tuple[str, ...]
    sha256: str
    in_recbole: bool

    @property
    def url(self) -> str:
        """Address of the zip at GroupLens."""
        return f"https://files.grouplens.org/datasets/movielens/{self.folder}.zip"

    def files_of(self, archive: str | None) -> list[Path]:
        """Returns the paths at which a local copy, a zip or a folder, could have its files."""
        if archive is None:
            return []
        path = Path(archive).expanduser()
        folders = (path, path / self.folder)
        return [path, *(folder / file for folder in folders for file in self.files)]


EDITIONS = {
    "100k": Edition(
        folder="ml-100k",
        files=("u.data", "u.item", "u.user"),
        sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        in_recbole=True,
    ),
    "1m": Edition(
        folder="ml-1m",
        files=("ratings.dat", "movies.dat", "users.dat"),
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        in_recbole=False,
    ),
    "latest-small": Edition(
        folder="ml-latest-small",
        files=("ratings.csv", "movies.csv"),
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        in_recbole=False,
    ),
}

Place = tuple[str, Callable[[Path], Path]]


def places(edition: Edition, archive: str | None) -> Iterator[Place]:
    """Yields name and fetcher of each place, in the order in which they are tried.

    A fetcher takes an empty work directory and returns a folder that holds `edition.files`. It
    raises `SourceError`.

    Args:
        edition: What is looked for.
        archive: The user's own copy, a zip or a folder.
    """
    if archive is not None:
        path = Path(archive).expanduser()
        yield f"archive={archive}", lambda work: from_archive(edition, path, work)
    yield "GroupLens", lambda work: from_grouplens(edition, work)
    if edition.in_recbole:
        yield f"the {_RECBOLE} wheel", from_recbole


def from_archive(edition: Edition, path: Path, work: Path) -> Path:
    """Returns the folder of a local copy; a zip is unpacked into `work`."""
    if path.is_dir():
        for folder in (path, path / edition.folder):
            if all((folder / file).is_file() for file in edition.files):
                return folder
        raise SourceError(f"the folder does not hold all of {', '.join(edition.files)}")
    if not path.is_file():
        raise SourceError("nothing is there")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(name).name: name for name in archive.namelist()}
            for file in edition.files:
                (work / file).write_bytes(archive.read(members[file]))
    except KeyError as error:
        raise SourceError(f"the zip lacks {error.args[0]}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"not a zip that can be read ({error})") from error
    return work


def from_grouplens(edition: Edition, work: Path) -> Path:
    """Downloads the published zip, checks its SHA-256 and returns the folder it unpacks to."""
    _probe(edition.url)
    try:
        with urllib.request.urlopen(edition.url, timeout=_STALL_SECONDS) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"the download broke off ({error})") from error
    check_sha256(edition.folder + ".zip", content, edition.sha256)
    archive = work / "download.zip"
    archive.write_bytes(content)
    return from_archive(edition, archive, work)


def from_recbole(work: Path) -> Path:
    """Fetches the RecBole wheel with pip and returns a folder with u.data, u.item and u.user."""
    wheel = wheel_of(_RECBOLE, work)
    contents = {}
    with zipfile.ZipFile(wheel) as archive:
        for file, sha256 in _RECBOLE_SHA256.items():
            content = archive.read(f"{_RECBOLE_FOLDER}/{file}")
            check_sha256(file, content, sha256)
            contents[file.removeprefix("ml-100k.")] = content.decode("utf-8")
    for file, text in {
        "u.data": convert_interactions(contents["inter"]),
        "u.item": convert_items(contents["item"]),
        "u.user": convert_users(contents["user"]),
    }.items():
        (work / file).write_text(text, encoding="iso-8859-1", newline="\n")
    return work


def convert_interactions(text: str) -> str:
    """Turns RecBole's `.inter` into u.data: user, item, rating, time, split by tabs."""
    return "".join("\t".join(row) + "\n" for row in _rows(text))


def convert_users(text: str) -> str:
    """Turns RecBole's `.user` into u.user: id, age, gender, occupation, zip code, split by `|`."""
    return "".join("|".join(row) + "\n" for row in _rows(text))


def convert_items(text: str) -> str:
    """Turns RecBole's `.item` into u.item: id, title, three fields left empty, 19 genre flags."""
    lines = []
    for item, title, year, genres in _rows(text):
        if unknown := set(genres.split()) - set(_GENRES_100K):
            raise SourceError(f"item {item} has the unknown genre {unknown.pop()}")
        title = _RECBOLE_TITLES.get(item, f"{title} ({year})")
        flags = ["1" if genre in genres.split() else "0" for genre in _GENRES_100K]
        lines.append("|".join([item, title, "", "", "", *flags]) + "\n")
    return "".join(lines)


def _rows(text: str) -> Iterator[list[str]]:
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    next(rows)  # the header
    return rows


def wheel_of(requirement: str, work: Path) -> Path:
    """Fetches a wheel from the package index with pip, without its dependencies, into `work`.

    Raises:
        SourceError: If pip cannot.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--timeout=10", "--retries=1"]
    try:
        subprocess.run(
            [*command, "--dest", str(work), requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=180,
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise SourceError(f"pip could not fetch it ({lines[-1]})") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError("pip did not finish within 180 s") from error
    return next(work.glob("*.whl"))


def _probe(url: str) -> None:
    """Raises `SourceError` unless the server answers soon.

    In a thread, because looking up a host name can hang for longer than any socket timeout.
    """
    outcome = [f"no answer within {_PROBE_SECONDS:.0f} s"]

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                outcome[0] = ""
        except (OSError, http.client.HTTPException) as error:
            outcome[0] = f"no answer ({getattr(error, 'reason', error)})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    if outcome[0]:
        raise SourceError(outcome[0])


def check_sha256(name: str, content: bytes, expected: str) -> None:
    """Raises `SourceError` unless content has the SHA-256 (hex) that is expected."""
    received = hashlib.sha256(content).hexdigest()
    if received != expected:
        raise SourceError(f"{name} has SHA-256 {received[:12]}…, not {expected[:12]}…")
