"""What every `python -m mtrec.<command>` shares: its config, its signals, and how it fails."""

import functools
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mtrec import imported_at
from mtrec.jobs import interrupts

_asked_before = False


def started_at() -> float:
    """When the job of a command begins that asks, as `time.time()`: for the first, with mtrec.

    The system knows no such moment: a process may have been a shell for long, which became Python
    by `exec`.
    """
    global _asked_before
    began = time.time() if _asked_before else imported_at
    _asked_before = True
    return began


if TYPE_CHECKING:
    from hydra.types import RunMode
    from rich.console import Console


def command(
    config_name: str,
    *,
    folder: str = "",
    typed: bool = True,
    texts: Container[str] = (),
    lists: Container[str] = (),
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Makes a Hydra command of a function over the typed config.

    A `UserError`, or a mistake that Hydra finds, is printed as one sentence and ends the command
    with status 1; SIGINT and SIGTERM end it with 128 and their number. What the function returns is
    what a sweeper that searches hears of the job.

    Args:
        config_name: The YAML file that the command composes.
        folder: The folder of `conf/` that holds it.
        typed: Whether the function takes the config as objects of its schema, or as composed.
        texts: Options whose values are taken as they stand on the command line; see `as_text`.
        lists: Options with lists of such values.
    """

    def decorate(function: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            sys.argv[1:] = [as_text(a, texts, lists) for a in sys.argv[1:]]
            if "--version" in sys.argv[1:]:
                from importlib.metadata import version

                print(f"mtrec {version('mtrec')}")
                return
            with interrupts.heard():
                try:
                    _run(function, config_name, folder, typed)
                except KeyboardInterrupt:
                    number = interrupts.asked() or signal.SIGINT
                    print(f"error: {signal.Signals(number).name}: stopped", file=sys.stderr)
                    sys.exit(128 + number)
                except BrokenPipeError:
                    # Whoever read what is printed, such as `head`, has enough of it.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    sys.exit(128 + signal.SIGPIPE)

        return main

    return decorate


def _run(function: Callable[[Any], Any], config_name: str, folder: str, typed: bool) -> None:
    """Has Hydra compose the config and run the function with it."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from mtrec.config import conf_directory
    from mtrec.jobs import mistakes
    from mtrec.jobs.schema import register
    from mtrec.libraries import quiet_libraries

    quiet_libraries()
    register()
    begun = False

    @functools.wraps(function)
    def task(config: Any) -> Any:
        nonlocal begun
        begun = True
        # Caught here, or Hydra would say several lines about it.
        with _one_sentence(within=HydraConfig.get().mode):
            mistakes.refuse_missing(config)
            return function(OmegaConf.to_object(config) if typed else config)

    run = hydra.main(
        version_base="1.3", config_path=str(conf_directory() / folder), config_name=config_name
    )(task)
    with _one_sentence(), _raising():
        mistakes.refuse_flags(sys.argv[1:])
        try:
            run()
        except OSError as error:
            if begun or isinstance(error, HydraException | BrokenPipeError):
                raise
            raise mistakes.unusable(error) from error


@contextmanager
def _one_sentence(within: "RunMode | None" = None) -> Iterator[None]:
    """Ends the process with a sentence and status 1 where a mistake is raised.

    Within a sweep it raises the sentence alone, and the other jobs run.
    """
    from hydra.types import RunMode

    from mtrec.jobs.mistakes import mistake_in

    try:
        yield
    except Exception as error:
        found = mistake_in(error, sys.argv[1:])
        if found is None:
            raise
        if within == RunMode.MULTIRUN:
            raise found from error
        fail(str(found))


@contextmanager
def _raising() -> Iterator[None]:
    """Lets Hydra raise what it would print in several lines, without printing it as well."""
    before, logger = os.environ.get("HYDRA_FULL_ERROR"), logging.getLogger("hydra.utils")
    os.environ["HYDRA_FULL_ERROR"], logger.disabled = "1", True
    try:
        yield
    finally:
        logger.disabled = False
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def as_text(argument: str, texts: Container[str], lists: Container[str] = ()) -> str:
    """An argument of the command line, the value of an option of `texts` being put in quotes.

    Without them Hydra takes the id 1.10 for the number 1.1, and many a letter for a mistake. What
    stands in quotes stays as it is. Of an option of `lists`, each value of `[50,181]` is.
    """
    name, _, value = argument.partition("=")
    if name in texts:
        return f"{name}={_quoted(value)}"
    if name in lists and (entries := re.fullmatch(r"\[(.*)\]", value, re.DOTALL)):
        found = re.findall(r"\s*('.*?'|\".*?\"|[^,]+)\s*(?:,|$)", entries[1], re.DOTALL)
        return f"{name}=[{','.join(_quoted(entry.strip()) for entry in found)}]"
    return argument


def _quoted(value: str) -> str:
    if re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
        return value
    # Hydra halves backslashes before a quote alone.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), value)
    return "'" + escaped.replace("${", r"\${") + "'"


def console() -> "Console":
    """What commands print to: text as it is, since a title such as [rec] is no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Prints one sentence on stderr and ends the command with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
