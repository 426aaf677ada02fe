"""What the nodes of a cluster have, and whether they fit together.

It needs the standard library alone, and is sent to the nodes by value: there, what it looks for
may be missing, mtrec itself included.
"""

import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

SAME_ON_ALL_NODES = ("tensorflow", "keras", "numpy", "scann", "ray", "mtrec")
_CONNECT_SECONDS = 5


class About(TypedDict):
    """A node.

    Attributes:
        host: Its name.
        address: Where the other nodes are to reach it.
        port: One that it listens on.
        versions: Of Python and the libraries; `none` for one that is missing.
        gpus: A line for each GPU, with its memory.
        problem: Why it could not write its file, or nothing.
    """

    host: str
    address: str
    port: int
    versions: dict[str, str]
    gpus: list[str]
    problem: str


class Probe:
    """Looks at the node that it lives on, and listens on one of its ports.

    Args:
        address: Where the other nodes are to reach this one.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._server = socket.create_server(("", 0))

    def close(self) -> None:
        """Listens no longer."""
        self._server.close()

    def about(self, file: Path, token: str) -> About:
        """Writes `token` to `file`; returns what the node has."""
        problem = ""
        try:
            file.write_text(token)
        except OSError as error:
            problem = str(error)
        return {
            "host": socket.gethostname(),
            "address": self._address,
            "port": self._server.getsockname()[1],
            "versions": versions(),
            "gpus": gpus(),
            "problem": problem,
        }

    def unreached(self, others: Sequence[About]) -> list[str]:
        """A sentence for each node that cannot be connected to from here."""
        failed = []
        for other in others:
            place = (other["address"], other["port"])
            try:
                socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
            except OSError as error:
                failed.append(
                    f"Every node must reach every other on any port; {socket.gethostname()} does "
                    f"not reach {other['host']} at {place[0]}:{place[1]} ({error}). Open the ports "
                    "between them."
                )
        return failed


def versions() -> dict[str, str]:
    """Versions of Python and the libraries here; `none` for one that is missing."""
    found = {"python": platform.python_version()}
    for name in SAME_ON_ALL_NODES:
        found[name] = "none"
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def gpus() -> list[str]:
    """A line for each GPU that NVIDIA's driver knows here: its name, memory and what is free."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [f"{line.strip()} free" for line in done.stdout.splitlines() if line.strip()]


def misfits(
    found: Sequence[About], files: Sequence[Path], token: str, expected: Mapping[str, str]
) -> Iterator[str]:
    """Sentences on nodes that do not share this machine's storage or do not have its versions.

    Args:
        found: The nodes.
        files: The file that each has written, as this machine sees it.
        token: What it was to write.
        expected: This machine's versions.
    """
    hosts = {node["host"] for node in found}
    for node, file in zip(found, files, strict=True):
        host = node["host"]
        if node["problem"] or not _holds(file, token):
            yield (
                f"hydra.run.dir must be on storage that all nodes share; what {host} writes to "
                f"{file.parent} does not come here ({node['problem'] or 'it is another directory'})"
                ". Set it to a shared path."
            )
        yield from _other_versions(host, node["versions"], expected)
        if len(hosts) > 1 and node["address"].startswith("127."):
            yield (
                f"Nodes must be known by addresses that others reach; {host} is known as "
                f"{node['address']}. Start Ray there with --node-ip-address."
            )


def misfits_here(file: Path, expected: Mapping[str, str]) -> Iterator[str]:
    """The same sentences on this node, which may have joined the cluster since.

    Args:
        file: One of the run directory that the driver has written.
        expected: The driver's versions.
    """
    host = socket.gethostname()
    if not file.exists():
        yield (
            f"hydra.run.dir must be on storage that all nodes share; {host} does not find {file}. "
            "Set it to a shared path."
        )
    yield from _other_versions(host, versions(), expected)


def _other_versions(
    host: str, there: Mapping[str, str], expected: Mapping[str, str]
) -> Iterator[str]:
    different = [
        f"{name} {there[name]} instead of {wanted}"
        for name, wanted in expected.items()
        if there[name] != wanted
    ]
    if different:
        yield (
            f"All nodes must have this machine's versions; {host} has {', '.join(different)}. "
            "Install the same there."
        )


def _holds(file: Path, token: str) -> bool:
    with suppress(OSError):
        return file.read_text() == token
    return False
