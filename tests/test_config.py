"""Every YAML file composes, and what it names can be made."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_config import composed, config_of

from mtrec.config import conf_directory
from mtrec.errors import UserError
from mtrec.model.pooling import Transformer

CONF = conf_directory()
REQUIRED = {
    "data=table": ["data.interactions=rows.csv"],
    "head@task.heads.retrieval=amount": ["task.heads.retrieval.label=plays"],
    "cluster=ray_address": ["cluster.address=127.0.0.1:6379"],
}


def choices() -> list[str]:
    """Every `group=option` of the root config."""
    groups = [
        "answer",
        "balance",
        "cluster",
        "data",
        "experiment",
        "index",
        "model",
        "model/pooling",
        "model/sharing",
        "optimizer",
        "task",
        "tracking",
    ]
    found = [f"{group}={path.stem}" for group in groups for path in (CONF / group).glob("*.yaml")]
    found += [
        f"head@task.heads.{task}={path.stem}"
        for path in (CONF / "head").glob("*.yaml")
        for task in (("rating",) if path.stem.startswith("rating") else ("retrieval",))
    ]
    found += [
        f"negatives@task.heads.retrieval.negatives={path.stem}"
        for path in (CONF / "negatives").glob("*.yaml")
    ]
    return sorted(found)


@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_what_it_names_can_be_made(choice: str) -> None:
    config = config_of(choice, *REQUIRED.get(choice, []))
    for head in config.task.heads.values():
        instantiate(head)
    for side in ("query", "candidate"):
        instantiate(
            getattr(config.model, side),
            features=config.data["features"][side],
            sharing=config.model.sharing[side],
        )
    for node in (config.answer, config.balance, config.index, *config.optimizer.values()):
        instantiate(node)


def test_every_file_belongs_to_a_group_or_a_command() -> None:
    folders = {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")}
    groups = {re.split("[=@/]", choice)[0] for choice in choices()}
    commands = {path.name for path in CONF.glob("*.yaml")} | {"compare", "benchmark"}
    assert folders == groups | commands


@pytest.mark.parametrize(
    ("name", "folder"), [(p.stem, "") for p in CONF.glob("*.yaml")] + [("compare", "compare")]
)
def test_the_config_of_every_command_composes(name: str, folder: str) -> None:
    values = composed(name=name, folder=folder)
    if name == "recommend":
        values.user_id = "1"
    assert OmegaConf.to_object(values)


def test_every_default_is_the_choice_that_the_readme_speaks_of() -> None:
    config = config_of()
    assert set(config.task.active()) == {"retrieval", "rating"}
    assert config.data["variant"] == "100k"
    how = config.data["split"]
    assert (how["kind"], how["seed"]) == ("random", 42)
    assert how["train_share"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.global_batch=0", "train.global_batch must be at least 1; got 0"),
        ("train.max_steps=0", "train.max_steps must be at least 1, or null; got 0"),
        ("train.batch_of=items", "train.batch_of must be users, rows or requests; got items"),
        ("train.history_share=1.0", "train.history_share must be at least 0 and below 1"),
        ("train.checkpoint_every=often", "train.checkpoint_every must be steps"),
        ("task.weights.retrieval=-1", "task.weights.retrieval must be a finite number"),
        ("task.weights={retrieval:0,rating:0}", "task.weights must not all be 0"),
        ("+task.weights.clicks=1", "task.weights must name the heads"),
        ("evaluate.users=0", "evaluate.users must be at least 1, or null; got 0"),
        ("evaluate.final_users=0", "evaluate.final_users must be at least 1, or null; got 0"),
        ("model.sharing=mmoe", "Write model/sharing=mmoe"),
        ("model.pooling=mean", "Write model/pooling=mean"),
        ("cluster.num_workers=2", "Add cluster=ray_local"),
        ("cluster.devices_per_worker=0", "cluster.devices_per_worker must be at least 1"),
        ("cluster.health_timeout_s=0", "cluster.health_timeout_s must be above 0; got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        config_of(override)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.num_users=many", "data.num_users must be of the type int; got 'many'."),
        ("data.num_users=null", "data.num_users must be of the type int; got None."),
        ("data.split.train_share=most", "data.split.train_share must be of the type float; got"),
        ("+data.num_user=3", "got data.num_user. Did you mean data.num_users?"),
        ("+data.split.shard=3", "got data.split.shard. Leave it out."),
        ("~data.noise", "data.noise must be given: pass +data.noise=..."),
        ("~data.split.fold", "data.split.fold must be given: pass +data.split.fold=..."),
        ("data._target_=mtrec.load_tables", "data._target_ must name what returns"),
    ],
)
def test_the_signature_of_a_loader_and_of_a_split_is_their_schema(override, sentence):
    with pytest.raises(UserError) as refused:
        config_of("data=synthetic", override)
    assert sentence in str(refused.value)


def test_an_option_of_a_loader_has_the_type_that_its_signature_says():
    config = config_of("data=table", "data.interactions=7", "data.rating_scale=[1,5]")
    assert config.data["interactions"] == "7"
    assert [type(bound) for bound in config.data["rating_scale"]] == [float, float]
    assert type(config.data["split"]["rating_share"]) is float


def test_patience_needs_a_metric_that_one_epoch_is_better_by() -> None:
    with pytest.raises(UserError, match=r"train.patience must be null with train.select_by=null"):
        config_of("train.patience=2", "train.select_by=null")


@pytest.mark.parametrize("data", ["synthetic", "movielens_100k", "table"])
def test_the_pooling_chosen_is_that_of_the_history(data: str) -> None:
    rows = REQUIRED.get(f"data={data}", [])
    chosen = ["model/pooling=transformer", "model.pooling.length=7"]
    config = config_of(f"data={data}", *rows, *chosen)
    history = instantiate(config.data["features"]["query"])["shared"]["history"]
    assert isinstance(history.pooling, Transformer)
    assert history.pooling.length == 7


def test_a_head_of_weight_zero_is_left_out() -> None:
    assert config_of("task.weights.rating=0").task.active() == ["retrieval"]


def test_the_wheel_and_the_checkout_find_their_conf() -> None:
    assert (CONF / "config.yaml").is_file()
    assert Path(conf_directory()).is_absolute()


@pytest.mark.parametrize("which", ["tables", "dense"])
@pytest.mark.parametrize("rate", ["-1", "0", "nan", "inf", "fast"])
def test_a_learning_rate_that_teaches_nothing_is_refused(which: str, rate: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.{which}\.learning_rate must be a finite"):
        config_of(f"optimizer.{which}.learning_rate={rate}")
