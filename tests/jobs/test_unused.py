"""What is asked for and not read is refused, by the option that decides."""

import pytest
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.jobs.unused import refuse_unused

LOG = ("data=table", "data.interactions=log.csv")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["data.split.fold=9"],
            r"split\.fold must be left out with data\.split\.kind=random",
        ),
        (["data.split.kind=fold", "data.split.train_share=0.9"], r"split\.train_share .*kind=fold"),
        (["data.split.kind=temporal", "data.split.seed=1"], r"split\.seed .*kind=temporal"),
        (["data.split.kind=leave_one_out", "data.split.validation_share=0"], r"validation_share"),
        (
            ["train.batch_of=requests", "train.chronological=true"],
            r"train\.chronological must be left out with train\.batch_of=requests",
        ),
        (["cluster.max_failures=3"], r"cluster\.max_failures must be left out with .*kind=local"),
        (["model.table_placement=sharded", "model.shard_above_mib=1"], r"table_placement=sharded"),
        (
            ["task.heads.retrieval.at_least=3"],
            r"retrieval\.at_least .* with .*retrieval\.label=null",
        ),
        (
            [*LOG, "data.rating=null", "data.rating_scale=[1,5]"],
            r"data\.rating_scale must be left out with data\.rating=null",
        ),
        ([*LOG, "data.bag_separator=':'"], r"bag_separator .* with data\.bag_columns=\[\]"),
    ],
)
def test_an_option_that_what_was_chosen_does_not_read_is_refused(overrides, sentence):
    overrides = [*(() if LOG[0] in overrides else SMALL), *overrides]
    with pytest.raises(UserError, match=sentence):
        refuse_unused(config_of(*overrides), overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.split.kind=fold", "data.split.fold=2", "data.split.seed=3"],
        ["data.split.kind=temporal", "data.split.train_share=0.9"],
        ["data.split.kind=leave_one_out", "data.split.rating_share=0.5", "data.split.seed=1"],
        ["cluster=ray_local", "cluster.max_failures=3"],
        ["model.shard_above_mib=1", "model/pooling=transformer", "model.pooling.length=5"],
        ["head@task.heads.retrieval=softmax", "task.heads.retrieval.temperature=0.2", "~index.k"],
        [*LOG, "data.rating_scale=[1,5]", "data.bag_columns=[tags]", "data.bag_separator=':'"],
    ],
)
def test_what_is_read_may_be_asked_for(overrides):
    overrides = [*(() if LOG[0] in overrides else SMALL), *overrides]
    refuse_unused(config_of(*overrides), overrides)


def test_an_option_of_an_experiment_that_is_not_read_is_refused():
    experiment = {"data": {"split": {"fold": 2}}}
    with pytest.raises(UserError, match=r"split\.fold must .*; got .*fold=2 of the experiment"):
        refuse_unused(config_of(*SMALL), SMALL, experiment)
    decided = [*SMALL, "data.split.kind=random"]
    refuse_unused(config_of(*decided), decided, experiment)
