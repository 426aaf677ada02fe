"""What a job is called in MLflow: by what tells it from its neighbours."""

import re
from collections import Counter
from collections.abc import Sequence

# Overrides that say where a job is kept, or what its name or its data set tells anyway.
_UNTOLD = re.compile(r"(task|data|data\.\w+|seed|train\.resume|tracking\..*|hydra[./].*)=.*")
_LONGEST = 80


def run_name(task: str, seed: int, overrides: Sequence[str]) -> str:
    """The task, what the command overrode, and the seed: `joint rating=0.5 seed 3`.

    An override is told by the last part of its key, or two where others read alike; those of the
    training, and the experiment that neighbours share, come last, because a column of names is
    narrow.
    """
    told = [given.lstrip("+") for given in overrides]
    told = sorted(
        (given for given in told if not _UNTOLD.fullmatch(given)),
        key=lambda given: given.startswith(("train.", "experiment=")),
    )
    alike = Counter(_shortened(given, 1).partition("=")[0] for given in told)
    short = [
        _shortened(given, 1 if alike[_shortened(given, 1).partition("=")[0]] == 1 else 2)
        for given in told
    ]
    ending = f" seed {seed}"
    name = " ".join([task, *short])
    room = _LONGEST - len(ending)
    return (name if len(name) <= room else f"{name[: room - 1]}…") + ending


def _shortened(override: str, parts: int) -> str:
    """`rating=0.5` of `task.weights.rating=0.5`, or more parts of the key."""
    key, equals, value = override.partition("=")
    return ".".join(re.split(r"[./@]", key)[-parts:]) + equals + value.rsplit("/", 1)[-1]
