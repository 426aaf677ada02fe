"""Large libraries are imported without collecting garbage."""

import subprocess
import sys

import pytest


def said(code: str) -> str:
    """What a fresh interpreter prints, in which nothing is imported yet."""
    start = "import gc, sys\nfrom mtrec.libraries import first_import\n"
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_garbage_is_not_collected_during_the_first_import_alone() -> None:
    code = (
        "for _ in range(2):\n"
        "    with first_import('wave'):\n"
        "        import wave\n"
        "        print(gc.isenabled())\n"
        "    print(gc.isenabled())"
    )
    assert said(code).split() == ["False", "True", "True", "True"]


def test_later_collections_leave_out_what_a_first_import_brought() -> None:
    code = (
        "with first_import('wave'):\n    import wave\n"
        "print(any(o is wave.Wave_read for o in gc.get_objects()))\n"
        "with first_import('wave'):\n    class Later: pass\n"
        "print(any(o is Later for o in gc.get_objects()))"
    )
    assert said(code).split() == ["False", "True"]


@pytest.mark.parametrize(("before", "after"), [("gc.enable()", "True"), ("gc.disable()", "False")])
def test_the_collector_is_left_as_it_was_even_if_the_import_fails(before: str, after: str) -> None:
    code = (
        f"{before}\n"
        "try:\n"
        "    with first_import('not_installed'):\n"
        "        import not_installed\n"
        "except ModuleNotFoundError:\n"
        "    print(gc.isenabled())"
    )
    assert said(code) == after
