"""Places that may have MovieLens: what they hand over, and what they say when they cannot."""

import hashlib
import http.server
import io
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from mtrec.data import sources
from mtrec.data.sources import EDITIONS, SourceError

FILES = {"u.data": "196\t242\t3\t881250949\n", "u.item": "242|Kolya (1996)\n", "u.user": "196|49\n"}
# RecBole's layout, with every trap of its conversion.
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"
USER = (
    "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    '196\t49\tM\twriter\t5"105\n'
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n"
    '242\tKolja, "Le Cinéma"\t1996\tComedy\n'
    "267\tunkonwn\tunkonwn\tunknown\n"
    "1201\tMarlene Dietrich: Shadow and Light\t1996\tDocumentary\n"
)


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def contents(folder):
    return {name: (folder / name).read_text(encoding="iso-8859-1") for name in FILES}


def test_places_are_tried_in_the_order_local_copy_grouplens_wheel():
    names = [name for name, _ in sources.places(EDITIONS["100k"], "ml.zip")]

    assert names == ["archive=ml.zip", "GroupLens", "the recbole==1.2.1 wheel"]
    assert [name for name, _ in sources.places(EDITIONS["1m"], None)] == ["GroupLens"]


@pytest.mark.parametrize("inside", [".", "ml-100k"])
def test_a_folder_is_taken_as_it_is_or_as_the_parent_of_the_published_one(tmp_path, inside):
    write(tmp_path / inside, FILES)

    folder = sources.from_archive(EDITIONS["100k"], tmp_path, tmp_path / "unused")

    assert folder == tmp_path / inside


@pytest.mark.parametrize("inside", ["", "ml-100k/"])
def test_a_zip_is_unpacked_wherever_its_files_lie_in_it(tmp_path, inside):
    archive = tmp_path / "ml.zip"
    archive.write_bytes(zipped({inside + name: text for name, text in FILES.items()}))

    assert contents(sources.from_archive(EDITIONS["100k"], archive, tmp_path)) == FILES


def test_a_zip_cannot_write_outside_the_work_directory(tmp_path):
    archive = tmp_path / "ml.zip"
    archive.write_bytes(zipped({"../../" + name: text for name, text in FILES.items()}))
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)

    sources.from_archive(EDITIONS["100k"], archive, work)

    assert contents(work) == FILES
    assert not (tmp_path / "u.data").exists()


def test_a_local_copy_that_is_no_copy_says_why(tmp_path):
    edition = EDITIONS["100k"]
    write(tmp_path / "folder", {"u.data": ""})
    (tmp_path / "text.zip").write_text("not a zip")
    (tmp_path / "other.zip").write_bytes(zipped({"u.data": "", "u.item": ""}))

    for name, reason in {
        "none.zip": "nothing is there",
        "folder": "the folder does not hold all of u.data, u.item, u.user",
        "text.zip": "not a zip that can be read",
        "other.zip": "the zip lacks u.user",
    }.items():
        with pytest.raises(SourceError, match=reason):
            sources.from_archive(edition, tmp_path / name, tmp_path)


@pytest.fixture
def grouplens(monkeypatch):
    """A server on this machine in the place of GroupLens; `grouplens.content` is its zip."""

    class Handler(http.server.BaseHTTPRequestHandler):
        content = zipped({"ml-100k/" + name: text for name, text in FILES.items()})

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(self.content)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
    monkeypatch.setattr(sources.Edition, "url", property(lambda self: address))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_published_zip_is_downloaded_and_unpacked(tmp_path, grouplens):
    edition = replace(EDITIONS["100k"], sha256=hashlib.sha256(grouplens.content).hexdigest())

    assert contents(sources.from_grouplens(edition, tmp_path)) == FILES


def test_a_download_with_another_sha256_is_refused(tmp_path, grouplens):
    with pytest.raises(SourceError, match=r"ml-100k\.zip has SHA-256 .*not 50d2a982c669"):
        sources.from_grouplens(EDITIONS["100k"], tmp_path)


def test_a_download_that_breaks_off_is_refused(tmp_path, grouplens, monkeypatch):
    monkeypatch.setattr(
        grouplens, "end_headers", lambda self: self.wfile.write(b"Content-Length: 999999\r\n\r\n")
    )
    monkeypatch.setattr(
        grouplens, "send_response", lambda self, _: self.wfile.write(b"HTTP/1.0 200 OK\r\n")
    )

    with pytest.raises(SourceError, match="the download broke off"):
        sources.from_grouplens(EDITIONS["100k"], tmp_path)


def test_a_server_that_never_answers_is_given_up_soon(tmp_path, monkeypatch):
    asked, leave = threading.Event(), threading.Event()

    def hang(request, timeout):
        asked.set()
        leave.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(sources, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(sources.urllib.request, "urlopen", hang)

    with pytest.raises(SourceError, match="no answer within"):
        sources.from_grouplens(EDITIONS["100k"], tmp_path)

    assert asked.is_set()
    leave.set()


def pip_that_puts(wheel):
    """Stands for `subprocess.run`: checks the command and puts `wheel` where pip would."""

    def run(command, **_):
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "recbole==1.2.1"} <= set(command)
        target = Path(command[command.index("--dest") + 1])
        (target / "recbole-1.2.1-py3-none-any.whl").write_bytes(wheel)

    return run


@pytest.fixture
def recbole(monkeypatch):
    """A made-up wheel with the right SHA-256 for each of its three files."""
    files = {"ml-100k.inter": INTER, "ml-100k.item": ITEM, "ml-100k.user": USER}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    monkeypatch.setattr(sources, "_RECBOLE_SHA256", digests)
    wheel = zipped({f"recbole/dataset_example/ml-100k/{name}": t for name, t in files.items()})
    monkeypatch.setattr(sources.subprocess, "run", pip_that_puts(wheel))
    return digests


def test_the_wheel_is_turned_into_the_published_files(tmp_path, recbole):
    files = contents(sources.from_recbole(tmp_path))

    assert files["u.data"] == "196\t242\t3\t881250949\n"
    assert files["u.user"] == '196|49|M|writer|5"105\n'
    assert files["u.item"].splitlines() == [
        "1|Toy Story (1995)||||0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0",
        '242|Kolja, "Le Cinéma" (1996)||||0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0',
        "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
        # The published title ends in a space, which the wheel has lost.
        "1201|Marlene Dietrich: Shadow and Light (1996) ||||0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0",
    ]


@pytest.mark.parametrize("file", ["ml-100k.inter", "ml-100k.item", "ml-100k.user"])
def test_each_file_of_the_wheel_must_have_the_known_sha256(tmp_path, recbole, file):
    recbole[file] = "0" * 64

    with pytest.raises(SourceError, match=f"{file} has SHA-256"):
        sources.from_recbole(tmp_path)


def test_a_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    def fail(command, **_):
        stderr = "WARNING: retrying\nERROR: No matching distribution found"
        raise subprocess.CalledProcessError(1, command, stderr=stderr)

    monkeypatch.setattr(sources.subprocess, "run", fail)

    with pytest.raises(SourceError, match=r"pip could not fetch it \(ERROR: No matching"):
        sources.from_recbole(tmp_path)


def test_a_genre_that_the_published_file_cannot_hold_is_refused():
    with pytest.raises(SourceError, match="item 9 has the unknown genre Opera"):
        sources.convert_items("header\n9\tCarmen\t1984\tOpera\n")
