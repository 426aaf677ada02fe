"""Numbers that mean nothing are refused where they are taken, before anything is trained."""

import pytest
from small_config import SMALL, config_of

from mtrec.errors import UserError, require, user_error
from mtrec.jobs import build
from mtrec.jobs.load import load


@pytest.fixture(scope="module")
def data():
    return load(config_of(*SMALL).data)


def build_all(data, *overrides):
    dataset, parts = data
    try:
        config = config_of(*SMALL, "task=joint", *overrides)
        build.model(config, build.data(config, dataset), parts.fit)
        build.balancer(config, 1)
        build.optimizers(config, 1)
    except Exception as error:  # Hydra wraps what constructors raise
        raise user_error(error) or error from error


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (
            "task.heads.retrieval.temperature=-1",
            "task.heads.retrieval.temperature must be above 0; got -1",
        ),
        (
            "task.heads.retrieval.loss.all_pairs_weight=-1",
            r"loss\.all_pairs_weight must be at least 0; got",
        ),
        (
            "head@task.heads.retrieval=hinge task.heads.retrieval.loss.margin=0",
            r"loss\.margin .* 0",
        ),
        ("task.heads.rating.dim=0", "task.heads.rating.dim must be at least 1; got 0"),
        ("task.heads.rating.l2=-1", "task.heads.rating.l2 must be at least 0"),
        ("task.heads.rating.layers=[8,0]", "task.heads.rating.layers must be at least 1; got 0"),
        ("model.query.dim=0", r"model\.query\.dim must be at least 1; got 0"),
        ("model.query.dim=8", r"model\.query\.dim must be model\.candidate\.dim .*; got 8"),
        ("model.query.stddev=-1", r"model\.query\.stddev must be above 0"),
        (
            "model.sharing.query.layers=[0]",
            r"Each of model\.sharing\.query\.layers must",
        ),
        ("model.shard_above_mib=-1", "shard_above_mib must be at least 0"),
        (
            "optimizer.tables.beta_1=2",
            r"optimizer\.tables\.beta_1 must be .* below 1; got 2",
        ),
        ("optimizer.tables.epsilon=-1", r"optimizer\.tables\.epsilon must be at least 0"),
        ("balance=famo balance.rate=-1", r"balance\.rate must be above 0"),
        ("balance=famo balance.decay=-1", r"balance\.decay must be at least 0"),
        ("balance=gradnorm balance.alpha=-1", r"balance\.alpha must be at least 0"),
        (
            "balance=metabalance balance.relax=2",
            r"balance\.relax must be .* at most 1; got 2",
        ),
        (
            "balance=metabalance balance.decay=1",
            r"balance\.decay must be .* below 1; got 1",
        ),
        ("balance=uncertainty balance.rate=0", r"balance\.rate must be above 0"),
        ("seed=-1", "seed must be from 0 to 4294967295; got -1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(data, overrides, rule):
    with pytest.raises(UserError, match=rule):
        build_all(data, *overrides.split())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1.5])
def test_a_number_must_be_finite_and_within_all_bounds(value):
    require("x", 1.0, above=0, most=1)
    with pytest.raises(UserError, match=r"x must be above 0 and at most 1; got"):
        require("x", value, above=0, most=1)
