"""What is asked for and not read is refused, by the option that decides."""

import shutil

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_config import SMALL, config_of

from mtrec.config import conf_directory
from mtrec.errors import UserError
from mtrec.jobs.schema import experiment_of, register
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
        (
            ["task=rating", "index=scann"],
            r"index must be left out where no head retrieves, .*; got index=scann\. .*task=joint",
        ),
        (["task=rating", "answer=fused"], r"answer must be left out .*; got answer=fused"),
        (["task=rating", "answer.candidates.best.count=9"], r"answer must .*best\.count=9"),
        (["task.weights.retrieval=0", "index.k=3"], r"index must be left out .*; got index\.k=3"),
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
        ["task=retrieval", "index=exact", "answer=fused"],
        [
            "task=rating",
            "+task.heads.own={_target_: my_package.Head}",
            "+task.weights.own=1",
            "index=exact",
        ],
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


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("defaults:\n  - override /answer: fused\n", "answer=fused"),
        ("index:\n  k: 7\n", r"index\.k=7"),
    ],
)
def test_what_an_experiment_chooses_of_a_group_that_is_not_read_is_refused(text, given, tmp_path):
    conf = shutil.copytree(conf_directory(), tmp_path / "conf")
    (conf / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose("config", [*SMALL, "task=rating", "experiment=mine"])
        experiment = experiment_of({"experiment": "mine"})
    with pytest.raises(UserError, match=f"got {given} of the experiment"):
        refuse_unused(OmegaConf.to_object(composed), [], experiment)
    refuse_unused(OmegaConf.to_object(composed), ["task=rating"], experiment)
