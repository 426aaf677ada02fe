"""Contestants in processes of their own, that play in turns so that a noisy machine is fair."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtrec.errors import UserError

SCRIPTS = Path(__file__).resolve().parent / "contestants"


@dataclass(frozen=True)
class Contestant:
    """A script that plays rounds.

    Attributes:
        name: What it is called in tables.
        script: Its file in `contestants/`, without `.py`.
        options: What it is started with.
        peer: Whose environment it runs in; None for this one.
        gib: Memory that it takes.
    """

    name: str
    script: str
    options: Mapping[str, Any]
    peer: str | None = None
    gib: float = 1.0


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: What is compared, such as `joint, batch 1,024`.
        unit: What a round counts, such as `example`.
        contestants: Those who play; ratios are taken to the first.
        rounds: Rounds that count.
        warm: Rounds before them.
        check: Says what is wrong with what was found in each one's first round, by name; empty
            for nothing.
    """

    name: str
    unit: str
    contestants: Sequence[Contestant]
    rounds: int
    warm: int = 1
    check: Callable[[Mapping[str, Mapping[str, Any]]], list[str]] = lambda found: []

    @property
    def gib(self) -> float:
        """Memory that they take together: none gives back what it had until the last round."""
        return sum(one.gib for one in self.contestants)

    def of(self, peers: Container[str]) -> "Case":
        """The case without the contestants of other peers than these."""
        playing = [one for one in self.contestants if one.peer is None or one.peer in peers]
        return replace(self, contestants=playing)


@dataclass
class Played:
    """What a contestant did in the rounds that count.

    Attributes:
        cpu: CPU microseconds a unit, in each round.
        wall: Microseconds a unit, in each round.
        found: What it found in its first round.
        about: What it said of itself.
    """

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def play(
    case: Case, pythons: Mapping[str, Path | UserError]
) -> tuple[dict[str, Played], list[str]]:
    """Lets the contestants of a case play in turns.

    Args:
        case: The case.
        pythons: Each peer's interpreter, or why there is none.

    Returns:
        What each did, by name, and a sentence on each that could not play and on all that is wrong
        with what was found.
    """
    said = []
    with ExitStack() as stack:
        playing: dict[str, _Process] = {}
        played: dict[str, Played] = {}
        for one in case.contestants:
            python = pythons[one.peer] if one.peer else Path(sys.executable)
            if isinstance(python, UserError):
                said.append(str(python))
                continue
            process = stack.enter_context(_Process(one, python))
            # One by one, so that what starting takes of the memory is not taken at once.
            try:
                played[one.name] = Played(about=process.hear())
                playing[one.name] = process
            except UserError as error:
                said.append(str(error))
        for round_ in range(case.warm + case.rounds):
            for name, process in list(playing.items()):
                try:
                    told = process.ask()
                except UserError as error:
                    said.append(str(error))
                    del playing[name], played[name]
                    continue
                if not round_:
                    played[name].found = told
                if round_ < case.warm:
                    continue
                played[name].cpu.append(told["cpu"] / told["units"] * 1e6)
                played[name].wall.append(told["wall"] / told["units"] * 1e6)
    return played, said + case.check({name: one.found for name, one in played.items()})


def ratios(played: Mapping[str, Played]) -> dict[str, list[float]]:
    """Of each but the first: its CPU time a unit over the first's, round by round."""
    first, *others = played
    base = np.array(played[first].cpu)
    return {name: (np.array(played[name].cpu) / base).tolist() for name in others}


class _Process:
    """A contestant's process; its errors go to a file, whose end says why it failed."""

    def __init__(self, contestant: Contestant, python: Path) -> None:
        self._name = contestant.name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        # Threads that wait by spinning would count as CPU time, and on a shared machine take it.
        passive = {"OMP_WAIT_POLICY": "PASSIVE"}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        # TFRS is made for Keras 2, the others are not.
        legacy = {"TF_USE_LEGACY_KERAS": "1"} if contestant.peer == "tfrs" else {}
        script = SCRIPTS / f"{contestant.script}.py"
        # A peer must not see this environment's packages, and mtrec's own must find mtrec.
        path = {} if contestant.peer else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        inherited = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [python, script, json.dumps(dict(contestant.options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=inherited | passive | quiet | legacy | path,
        )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self) -> dict[str, Any]:
        """Has a round played."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            print("play", file=self._process.stdin, flush=True)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """The next line of JSON.

        Raises:
            UserError: If the process ended instead.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # what libraries print before it is ready
            line = self._process.stdout.readline()
        if line:
            told: dict[str, Any] = json.loads(line)
            return told
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)", line)]
        last = (errors or lines or [f"status {status}"])[-1]
        raise UserError(f"{self._name} must play to the end; it ended with `{last}`.")
