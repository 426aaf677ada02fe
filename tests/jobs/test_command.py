"""A user's mistake is one sentence, wherever it is found."""

import subprocess
import sys

import pytest

COMMAND = """
from hydra.utils import instantiate

from mtrec.jobs.command import command
from mtrec.jobs.load import load


@command("config")
def main(config):
    load(config.data)
    instantiate(config.task.heads["retrieval"])
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


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "train.epochs=0",
            "train.epochs must be at least 1; got 0.",
        ),
        (
            "data.num_users=0",
            "data.num_users must be at least 1; got 0. Set data.num_users=100.",
        ),
        (
            "task.heads.retrieval.dim=0",
            "The dim of a head must be at least 1, or null; got 0.",
        ),
    ],
)
def test_a_mistake_found_in_the_config_or_in_a_constructor_is_one_sentence(
    tmp_path, override, sentence
):
    done = run(tmp_path, override)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"error: {sentence}"
    assert "Error in call to target" not in done.stderr
