"""A user's mistake is one sentence, wherever it is found."""

import os
import re
import subprocess
import sys
import time

import pytest
from in_process import called
from small_config import composed

import mtrec
from mtrec import __main__
from mtrec.jobs.command import as_text, console, started_at

COMMAND = """
import logging
import os

from mtrec.jobs import build
from mtrec.jobs.command import command
from mtrec.jobs.load import load


logger, handler = logging.getLogger("a.caller"), logging.StreamHandler(open(os.devnull, "w"))
handler.close = handler.stream.close
logger.addHandler(handler)


@command("config")
def main(config):
    assert not (logger.disabled or handler.stream.closed), "Hydra has changed a caller's logging"
    build.data(config, load(config.data)[0])
    print("made")


main()
"""


def run(tmp_path, *overrides):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "data=synthetic", *overrides, f"hydra.run.dir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_runs_with_its_config(tmp_path):
    done = run(tmp_path)

    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr


def test_a_mistake_found_in_a_constructor_is_one_sentence(tmp_path):
    done = run(tmp_path, "task.heads.retrieval.dim=0")

    assert done.returncode == 1
    assert done.stdout == ""
    sentence = "task.heads.retrieval.dim must be at least 1, or null; got 0."
    assert done.stderr == f"error: {sentence}\n"


@pytest.mark.parametrize(
    "user_id",
    ["1.10", "1e5", "1_000", "true", "null", "O'Brien", "a=b,c", "{a}", "日本 ☕", "a\\", "${x}"],
)
def test_an_id_is_taken_as_it_stands_on_the_command_line(user_id):
    typed = as_text(f"user_id={user_id}", ["run", "user_id"])
    assert composed(typed, name="recommend").user_id == user_id


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("[1.10,1e5, 1_000,true,null,007]", ["1.10", "1e5", "1_000", "true", "null", "007"]),
        ("""[O'Brien,'a,b',"c, d",{e},${x}]""", ["O'Brien", "a,b", "c, d", "{e}", "${x}"]),
        ("[]", []),
    ],
)
def test_each_id_of_a_history_is_taken_as_it_stands_too(history, expected):
    typed = as_text(f"history={history}", ["user_id"], ["history"])
    assert list(composed(typed, "user_id=x", name="recommend").history) == expected


def test_what_stands_in_quotes_and_other_options_stay_as_they_are():
    for argument in ("user_id='1.10'", 'user_id="a,b"', "k=5", "--cfg", "history=[1,2]"):
        assert as_text(argument, ["user_id"]) == argument


def test_the_version_is_that_of_mtrec(capsys, monkeypatch):
    for words in (["mtrec", "--version"], ["mtrec", "launch", "--version"]):
        monkeypatch.setattr(sys, "argv", words)
        __main__.main()
        assert capsys.readouterr().out == f"mtrec {mtrec.__version__}\n"


def test_a_shell_completes_commands_and_their_options():
    def completed(line):
        found = subprocess.run(
            [sys.executable, "-m", "mtrec", "-sc", "query=bash"],
            env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(found.stdout.split())

    assert "recommend" in completed("mtrec re")
    assert {"task=joint", "task=rating"} <= completed("mtrec launch task=")


def test_a_reader_who_has_enough_ends_a_command_without_a_word():
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m mtrec launch --help | head -1; exit ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stderr, len(ended.stdout.splitlines())) == ("", 1)


def test_text_is_printed_as_it_is(capsys):
    console().print("[red]x[/red] [rec] [/b]")
    assert capsys.readouterr().out == "[red]x[/red] [rec] [/b]\n"


def test_a_job_is_not_billed_for_what_its_shell_did_before_it_became_python():
    script = (
        "sleep 1.2; date +%s.%N; "
        f"exec {sys.executable} -c 'from mtrec.jobs.command import started_at; print(started_at())'"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    became_python, began = map(float, done.stdout.split())
    assert began >= became_python


def test_preparing_says_how_many_rows_it_prepared_a_second(tmp_path):
    rows = "".join(f"u{n % 7},i{n % 11},3,{1_600_000_000 + n}\n" for n in range(60))
    (tmp_path / "log.csv").write_text("user_id,item_id,rating,timestamp\n" + rows)
    scale = "data.rating_scale=[1,5]"
    words = ("data=table", "data.interactions=log.csv", scale, f"data.cache_dir={tmp_path}/cache")
    done = called("prepare", *words, cwd=tmp_path)
    assert re.search(r"^data: [\d.]+ s, [1-9][\d,]* rows/s, peak", done.stdout, re.M), done


def test_a_second_job_of_a_process_begins_when_it_asks():
    started_at()  # unless a job of these tests has
    before = time.time()
    assert before <= started_at() <= time.time()
