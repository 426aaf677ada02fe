"""The commands by one name: `mtrec launch ...` is `python -m mtrec.launch ...`."""

import importlib
import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import version

COMMANDS = {
    "launch": "train, evaluate, index and export a recommender",
    "recommend": "print what a trained model recommends",
    "compare": "compare the runs of an experiment",
    "doctor": "check this machine, or a cluster",
    "prepare": "turn files into columns on disk",
}
_COMPLETE = ("-sc", "--shell-completion")


def main() -> None:
    """Runs a command, or lists them; completes names where a shell asks."""
    name = _of_shell(os.environ) if set(sys.argv[1:2]) & set(_COMPLETE) else _named()
    if name:
        importlib.import_module(f"mtrec.{name}").main()


def _named() -> str | None:
    """The command that the command line names first, which it then lacks."""
    asked = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if asked in COMMANDS:
        return asked
    if asked == "--version":
        print(f"mtrec {version('mtrec')}")
        return None
    if asked in ("-h", "--help"):
        for command, does in COMMANDS.items():
            print(f"mtrec {command:<10} {does}")
        print(
            'mtrec <command> --help lists its options; eval "$(mtrec -sc install=bash)" completes'
        )
        return None
    near = get_close_matches(asked, COMMANDS, n=1)
    mean = f" Did you mean {near[0]}?" if near else ""
    print(f"error: a command is one of {', '.join(COMMANDS)}; got {asked}.{mean}", file=sys.stderr)
    sys.exit(1)


def _of_shell(environment: Mapping[str, str]) -> str | None:
    """The command whose options a shell wants completed; completes the name of one itself."""
    if "query" not in "".join(sys.argv[2:3]):
        return "launch"  # whichever: they install the same
    line = environment.get("COMP_LINE", "")
    words = line.split()
    if words[1:2] and words[1] in COMMANDS and line != f"{words[0]} {words[1]}":
        os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
        return words[1]
    print(*COMMANDS)
    return None


if __name__ == "__main__":
    main()
