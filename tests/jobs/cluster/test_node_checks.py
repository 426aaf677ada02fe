"""What nodes have is compared with this machine, and what does not fit is named."""

import os
import socket
from contextlib import closing

import pytest

from mtrec.jobs.cluster import nodes

TOKEN = "42"


def about(host, address="10.0.0.1", **different):
    return {
        "host": host,
        "address": address,
        "port": 1,
        "versions": nodes.versions() | different,
        "gpus": [],
        "problem": "",
    }


def misfits(tmp_path, *found):
    files = [tmp_path / node["host"] for node in found]
    for file in files:
        file.write_text(TOKEN)
    return list(nodes.misfits(found, files, TOKEN, nodes.versions()))


def test_nodes_like_this_machine_fit(tmp_path):
    assert misfits(tmp_path, about("a"), about("b")) == []


def test_another_version_and_a_missing_library_are_named_with_the_node(tmp_path):
    (sentence,) = misfits(tmp_path, about("a"), about("b", numpy="1.0", scann="none"))
    here = nodes.versions()
    assert f"b has numpy 1.0 instead of {here['numpy']}, scann none instead of" in sentence


def test_python_is_compared_as_well(tmp_path):
    (sentence,) = misfits(tmp_path, about("a", python="3.9.1"))
    assert "a has python 3.9.1 instead of 3." in sentence


def test_what_a_node_wrote_elsewhere_is_not_shared(tmp_path):
    node = about("a")
    (sentence,) = nodes.misfits([node], [tmp_path / "nothing"], TOKEN, nodes.versions())
    assert f"what a writes to {tmp_path} does not come here (it is another" in sentence


def test_a_node_that_cannot_write_says_why(tmp_path):
    file = tmp_path / "missing" / "file"
    with closing(nodes.Probe("127.0.0.1")) as probe:
        node = probe.about(file, TOKEN)
    (sentence,) = nodes.misfits([node], [file], TOKEN, nodes.versions())
    assert "No such file or directory" in sentence


def test_loopback_addresses_are_refused_between_machines_alone(tmp_path):
    assert misfits(tmp_path, about("a", "127.0.0.1"), about("a", "127.0.0.1")) == []
    (sentence,) = misfits(tmp_path, about("a", "127.0.1.1"), about("b"))
    assert "a is known as 127.0.1.1" in sentence


def test_nodes_reach_each_other_until_one_has_gone(tmp_path):
    with closing(nodes.Probe("127.0.0.1")) as one:
        with closing(nodes.Probe("127.0.0.1")) as other:
            found = [probe.about(tmp_path / "file", TOKEN) for probe in (one, other)]
            assert (tmp_path / "file").read_text() == TOKEN
            assert one.unreached(found) == []
        (sentence,) = one.unreached(found)
    assert f"does not reach {socket.gethostname()} at 127.0.0.1:{found[1]['port']} (" in sentence


def test_gpus_are_listed_with_their_memory(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 22563 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert nodes.gpus() == ["NVIDIA L4, 23034 MiB, 22563 MiB free"]


def test_a_machine_without_the_drivers_tool_has_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nodes.gpus() == []


@pytest.mark.parametrize("name", ["tensorflow", "keras", "numpy", "scann", "ray", "mtrec"])
def test_each_library_of_the_contract_is_compared(name):
    assert nodes.versions()[name] != "none"


def test_a_node_that_joined_since_is_compared_with_the_driver_from_within(tmp_path):
    file = tmp_path / "config.yaml"
    (sentence,) = nodes.misfits_here(file, nodes.versions())
    host = socket.gethostname()
    assert f"storage that all nodes share; {host} does not find {file}" in sentence
    file.touch()
    assert list(nodes.misfits_here(file, nodes.versions())) == []
    (sentence,) = nodes.misfits_here(file, nodes.versions() | {"numpy": "1.0"})
    assert f"{host} has numpy {nodes.versions()['numpy']} instead of 1.0. Install" in sentence
