"""Both signals are one wish to stop, heard wherever the process is."""

import os
import signal
import subprocess
import sys
import time

import pytest

WAYS = {
    # It ends within itself, by an exception.
    "python": "time.sleep(600)",
    # It hears nothing until its call ends, after an hour.
    "library": "hashlib.pbkdf2_hmac('sha256', b'a', b'a', 10**9)",
    # It holds something, is asked, and lets go.
    "held": "interrupts.hold(True)\n    while not interrupts.asked(): time.sleep(0.01)\n    save()",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("way", "said"), [("python", ""), ("library", "words"), ("held", "saved")])
def test_a_signal_is_heard_within_python_within_a_library_and_where_something_is_held(
    way, said, number
):
    program = f"""
import hashlib, sys, time
from mtrec.jobs import interrupts

def save():
    print("saved", flush=True)
    sys.exit(128 + interrupts.asked())

with interrupts.heard():
    interrupts.say_at_the_end(lambda: print("words", flush=True))
    print("ready", flush=True)
    {WAYS[way]}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # so that it is where it is to be interrupted
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert out.strip() == said
    if way == "python":
        assert "KeyboardInterrupt" in error
    else:
        assert process.returncode == 128 + number


def test_a_signal_that_comes_where_nothing_can_be_raised_comes_again_without_a_trace():
    program = """
import os, signal, sys, time
from mtrec.jobs import interrupts

class Object:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

with interrupts.heard():
    made = Object()
    del made
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(0.5)  # as what ends by itself is not ended as by a second signal
        sys.exit(128 + interrupts.asked())
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, b"")


def test_a_status_is_kept_where_what_python_executes_was_interrupted(tmp_path):
    # As the code of a dataclass is; a module that is run then ends by SIGINT, says Python.
    program = """
import signal, sys
from mtrec.jobs import interrupts

with interrupts.heard():
    try:
        exec("signal.raise_signal(signal.SIGINT)")
    except KeyboardInterrupt:
        pass
sys.exit(130)
"""
    (tmp_path / "interrupted.py").write_text(program)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted"], env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    assert ended.returncode == 130
