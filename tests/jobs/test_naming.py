"""A run is called by what tells it from its neighbours."""

import pytest

from mtrec.jobs.naming import run_name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "joint seed 3"),
        (["task=joint", "seed=3", "task.weights.rating=0.5"], "joint rating=0.5 seed 3"),
        (
            ["train.epochs=4", "balance=famo", "data=table", "data.interactions=/a/b.csv"],
            "joint balance=famo epochs=4 seed 3",
        ),
        (["+experiment=smoke", "balance=famo"], "joint balance=famo experiment=smoke seed 3"),
        (["tracking.uri=http://x", "hydra.run.dir=/tmp/a", "train.resume=/b"], "joint seed 3"),
        (["data.split.kind=fold", "model/pooling=mean"], "joint kind=fold pooling=mean seed 3"),
        (
            ["model.query.dim=8", "model.candidate.dim=8"],
            "joint query.dim=8 candidate.dim=8 seed 3",
        ),
        (["+head@task.heads.plays=count", "~task.heads.rating"], "joint plays=count rating seed 3"),
    ],
)
def test_a_run_is_called_by_its_task_its_overrides_and_its_seed(overrides, name):
    assert run_name("joint", 3, overrides) == name


def test_a_long_name_keeps_its_beginning_and_its_seed():
    name = run_name("joint", 3, [f"model.query.option_{i}={i}" for i in range(20)])
    assert len(name) == 80
    assert name.startswith("joint option_0=0 option_1=1 ")
    assert name.endswith("… seed 3")
