"""Errors name arguments in the library, and keys of the config where there is one."""

import ast
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from small_config import SMALL, config_of

import mtrec
from mtrec.errors import UserError
from mtrec.jobs import build
from mtrec.jobs.keys import in_keys
from mtrec.jobs.load import load
from mtrec.jobs.typed import typed

LIBRARY = ("data", "distributed", "heads", "model", "training", "serving")
CONFIG = {
    "seed": 1,
    "task": {"select_by": "a", "heads": {"rating": {"dim": 4, "loss": {"margin": 1}}}},
    "train": {"select_by": "b", "epochs": 2},
    "model": {"pooling": {"heads": 2}},
    "data": {"seed": 3, "split": {"fold": 1}, "features": {"past": {"pooling": {"heads": 2}}}},
    "optimizer": {"tables": {"epsilon": 1}, "dense": {"epsilon": 2}},
}


@pytest.mark.parametrize(
    ("node", "said", "told"),
    [
        ("", "`epochs` must be 1. Set `epochs`=1.", "train.epochs must be 1. Set train.epochs=1."),
        ("", "`heads.rating.dim` must", "task.heads.rating.dim must"),
        ("data.split", "`fold` or `seed`", "data.split.fold or data.seed"),
        ("", "`seed` must", "seed must"),
        ("train", "`select_by` must", "train.select_by must"),
        ("optimizer.dense", "`epsilon` must", "optimizer.dense.epsilon must"),
        # The topmost: the other is interpolated from it.
        ("", "`pooling.heads` must", "model.pooling.heads must"),
        # An option that may be added.
        ("", "with `dense.clipnorm`", "with optimizer.dense.clipnorm"),
        ("", "or take `mtrec.load_synthetic`", "or take data=synthetic"),
        ("", "or take `mtrec.SharedBottom`", "or take model/sharing=shared_bottom"),
        # Of two that are alike it cannot be told.
        ("", "`epsilon` and `nvidia-smi` and `unknown`", None),
    ],
)
def test_an_argument_is_told_by_its_key(node, said, told):
    with pytest.raises(UserError) as raised, in_keys(CONFIG, node):
        raise UserError(said)
    assert str(raised.value) == (told or said)


def test_an_argument_inside_of_what_a_node_names_is_told_by_its_key():
    wrapped = InstantiationException("Error in call to target 'x':\nfull_key: loss")
    wrapped.__cause__ = UserError("`margin` must be less")
    rule = r"^task\.heads\.rating\.loss\.margin must be less$"
    with pytest.raises(UserError, match=rule), in_keys(CONFIG, "task.heads.rating"):
        raise wrapped


def test_an_error_that_is_no_mistake_of_the_user_passes():
    with pytest.raises(ZeroDivisionError), in_keys(CONFIG):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("data.split.kind=fold data.split.fold=9", "data.split.fold must be from 1 to 5; got 9."),
        ("data.split.seed=-1", "data.split.seed must be from 0"),
        ("data.noise=-1", "data.noise must not be negative; got -1.0. Set data.noise=0.5."),
        ("balance=metabalance balance.main=x", "balance.main must be one of retrieval, rating"),
        (
            "task.heads.rating.label=stars",
            "task.heads.rating.label must be a label of the interactions (rating); got stars.",
        ),
        (
            "data.features.query.shared.history.dropout=2",
            "data.features.query.shared.history.dropout of the history",
        ),
        (
            "data.features.candidate.shared.item_id.column=itm",
            "data.features.candidate.shared.item_id reads the column 'itm'",
        ),
        (
            "model/pooling=transformer model.pooling.heads=7",
            "model.pooling.heads must divide the width of the tower (64); got 7.",
        ),
    ],
)
def test_what_a_job_refuses_names_the_key_to_change(overrides, sentence):
    with pytest.raises(UserError) as refused:
        build_all(config_of(*SMALL, *overrides.split()))
    assert sentence in str(refused.value)


def build_all(config):
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    build.batches(config, dataset, parts.fit, model.heads, 2)
    build.balancer(config, 1)


def texts() -> list[tuple[str, str]]:
    """Every text in the library, with holes for what is put into it, and where it stands."""
    found = []
    for room in LIBRARY:
        for path in sorted((Path(mtrec.__file__).parent / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                said = [p.value if isinstance(p, ast.Constant) else "{}" for p in parts]
                if isinstance(node, ast.JoinedStr | ast.Constant) and isinstance(said[0], str):
                    found.append((f"{path.name}:{node.lineno}", "".join(map(str, said))))
    return found


def keys(node, path=""):
    for name, value in node.items() if hasattr(node, "items") else ():
        yield f"{path}{name}"
        yield from keys(value, f"{path}{name}.")


def test_no_text_of_the_library_names_a_key():
    sources = ("data=synthetic",), (), ("data=table", "data.interactions=rows.csv")
    known = {key for s in sources for key in keys(asdict(config_of(*s))) if "." in key}
    nodes = {key.rpartition(".")[0] for key in known} - {"data.features.query.shared"}
    named = re.compile(
        r"(?<![\w.`])(" + "|".join(map(re.escape, known)) + r")(?![\w])|"
        r"(?<![\w./`])(" + "|".join(map(re.escape, nodes)) + r")\.\{\}|"
        r"(?<![\w.`])(data|task|model|balance|optimizer|cluster|index|tracking)=[a-z]"
    )
    for text in ("set train.epochs=1", "data.rating must", "set task.heads.{}"):
        assert named.search(text), text
    assert [(place, text) for place, text in texts() if named.search(text)] == []


def test_an_option_that_takes_any_value_takes_a_number():
    feature = {"_target_": "mtrec.Categorical", "column": "context.position"}
    node = {"_target_": "mtrec.OfRow", "feature": feature, "serve_as": 1}
    assert typed("task.heads.click.features.position", node)["serve_as"] == 1
