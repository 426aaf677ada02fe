"""`data.infer=true`: from files to a config that trains, in which what is given stays."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_config import composed

from mtrec.config import conf_directory
from mtrec.errors import UserError
from mtrec.jobs import build
from mtrec.jobs.composed import composed as running
from mtrec.jobs.inferred import heeded, inferred
from mtrec.jobs.load import load
from mtrec.jobs.unused import asked_for, refuse_unused


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A shop's log: what people bought when, how many, and whether they liked it."""
    rng = np.random.default_rng(1)
    lines = ["TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,SUBCLASS,PRODUCT_ID,AMOUNT,LIKED,X"]
    for row in range(900):
        user, item = rng.integers(40), rng.integers(30)
        group, kind = ("20-29", "30-39", "60+")[user % 3], 100100 + item % 14
        said = f"{rng.geometric(0.4)},{rng.integers(2)},{rng.normal():.3f}"
        rest = f"{group},{kind},{4710000 + item},{said}"
        lines.append(f"11/{1 + row // 40}/2000,{user:05d},{rest}")
    path = tmp_path_factory.mktemp("shop") / "shop.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n")
    return path


def found_in(file, *overrides, experiment=None):
    given = ["data=table", f"data.interactions={file}", "data.infer=true", *overrides]
    asked = asked_for(given, experiment or {})
    return inferred(composed(*given), asked=asked, task_chosen="task" in asked)


def test_a_log_becomes_a_model_of_all_its_labels(file):
    config = OmegaConf.to_object(found_in(file).config)
    assert sorted(config.task.active()) == ["amount", "liked", "repeat", "retrieval"]
    targets = {name: head["_target_"] for name, head in config.task.heads.items()}
    assert targets == {
        "retrieval": "mtrec.Retrieval",
        "amount": "mtrec.Amount",
        "liked": "mtrec.Binary",
        "repeat": "mtrec.Repeat",
    }
    dataset, parts = load(config.data)
    assert set(dataset.users) == {"CUSTOMER_ID", "AGE_GROUP"}
    assert set(dataset.items) == {"PRODUCT_ID", "SUBCLASS"}
    assert np.ptp(dataset.interactions["timestamp"]) == 22 * 86_400
    model = build.model(config, build.data(config, dataset), parts.fit)
    assert set(model.heads) == {"retrieval", "amount", "liked", "repeat"}


def test_a_command_heeds_it_too(file, tmp_path, capsys):
    given = ["data=table", f"data.interactions={file}", "data.infer=true"]
    with running(given, tmp_path) as config:
        found, yaml = heeded(config)
    assert OmegaConf.to_object(found) == OmegaConf.to_object(found_in(file).config)
    assert yaml in capsys.readouterr().out


def test_weights_make_all_labels_together_as_heavy_as_ratings_are_in_the_joint_task(file):
    weights = found_in(file).config.task.weights
    rows = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(5, 6))
    amount, liked = np.log1p(rows[:, 0]), rows[:, 1].mean()
    entropy = -liked * np.log(liked) - (1 - liked) * np.log(1 - liked)
    assert weights.retrieval == 1
    assert weights.amount * amount.var() == pytest.approx(0.125, rel=0.05)
    assert weights.liked * entropy == pytest.approx(0.125, rel=0.05)


def test_the_yaml_is_an_experiment_that_composes_to_the_same_config(file, tmp_path):
    found = found_in(file)
    assert "# Unsure:\n#   X was left out: neither a rating nor an amount" in found.yaml
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "shop.yaml").write_text(found.yaml)
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        again = compose("config", [f"hydra.searchpath=[{tmp_path}]", "experiment=shop"])
    refuse_unused(OmegaConf.to_object(again), [], OmegaConf.to_object(OmegaConf.create(found.yaml)))
    now, then = (OmegaConf.to_object(c) for c in (again, found.config))
    assert now.data.pop("infer") is False
    assert then.data.pop("infer") is True
    assert (now.data, now.task, now.answer) == (then.data, then.task, then.answer)
    assert now.train.batch_of == then.train.batch_of == "requests"


def test_what_is_given_stays_as_it_was_given(file):
    config = found_in(
        file,
        "data.user_columns=[]",
        "+data.features.candidate.amount.subclass={_target_:mtrec.Hashed,column:SUBCLASS,bins:5}",
        "+task.weights.amount=0.7",
        "+task.heads.amount.dim=5",
        "head@task.heads.retrieval=softmax",
    ).config
    assert config.data.user_columns == []
    assert "age_group" not in config.data.features.query.amount
    assert config.data.features.candidate.amount.subclass.bins == 5
    assert config.task.weights.amount == 0.7
    assert config.task.heads.amount.dim == 5
    assert config.task.heads.retrieval.loss._target_ == "mtrec.Softmax"
    config = found_in(file, experiment={"data": {"item_columns": []}}).config
    assert config.data.item_columns == []


def test_a_given_task_keeps_its_heads_and_learns_what_is_there(file):
    found = found_in(file, "task=retrieval")
    assert list(found.config.task.heads) == ["retrieval"]
    assert found.config.data.labels == []
    assert "task" not in OmegaConf.create(found.yaml)
    with pytest.raises(UserError, match=r"task.heads.rating.label must be .* AMOUNT, LIKED\. Set"):
        found_in(file, "task=joint")
    config = found_in(file, "task=joint", "data.rating=LIKED").config
    assert config.data.rating == "LIKED"
    assert "age_group" in config.data.features.query.rating


def test_what_cannot_be_guessed_is_asked_for_by_its_key(file, tmp_path):
    silent = tmp_path / "silent.csv"
    silent.write_text(file.read_text("utf-8-sig").replace("CUSTOMER_ID", "C"))
    with pytest.raises(UserError, match=r"^data.user_key must be given.* Set data.user_key to"):
        found_in(silent)


def test_where_users_take_items_again_that_is_learnt_and_answered_by(file):
    """40 users take 30 items 900 times: a row in four at most is of a new pair and day."""
    config = OmegaConf.to_object(found_in(file).config)
    assert config.data["repeats"] is True
    assert config.data["split"]["kind"] == "temporal"
    assert config.task.heads["retrieval"]["loss"]["_target_"] == "mtrec.Softmax"
    assert config.answer["fuse"]["formula"] == "repeat + w * popular * exp(v * retrieval)"
    otherwise = ["data.repeats=false", "task.heads.retrieval.dim=7"]
    config = OmegaConf.to_object(found_in(file, *otherwise).config)
    assert sorted(config.task.active()) == ["amount", "liked", "retrieval"]
    assert config.task.heads["retrieval"]["loss"]["_target_"] == "mtrec.ImplicitSquared"
    config = OmegaConf.to_object(found_in(file, otherwise[1], "answer=diverse").config)
    assert config.task.heads["retrieval"]["dim"] == 7
    assert config.answer["fuse"] is None


def test_what_is_known_of_a_request_is_context_that_a_model_reads(file, tmp_path):
    """A device for each user and day."""
    header, *rows = file.read_text("utf-8-sig").splitlines()
    device = {}
    rng = np.random.default_rng(2)
    for row in rows:
        device.setdefault(tuple(row.split(",")[:2]), rng.choice(["phone", "till", "web"]))
    more = [f"{row},{device[tuple(row.split(',')[:2])]}" for row in rows]
    path = tmp_path / "device.csv"
    path.write_text("\n".join([f"{header},DEVICE", *more]))
    config = OmegaConf.to_object(found_in(path).config)
    assert config.data["context"] == ["DEVICE"]
    assert config.data["request"] is None
    assert config.train.batch_of == "requests"
    read = config.data["features"]["query"]["shared"]["device"]
    assert read == {"_target_": "mtrec.Categorical", "column": "context.DEVICE"}
    dataset, _ = load(config.data)
    assert sorted(set(dataset.requests["DEVICE"].tolist())) == ["", "phone", "till", "web"]
    config = OmegaConf.to_object(found_in(path, "train.batch_of=users").config)
    assert config.data["context"] == []
    assert "device" not in config.data["features"]["query"]["shared"]


def test_a_label_may_say_yes_and_no(file, tmp_path):
    header, *rows = file.read_text("utf-8-sig").splitlines()
    place = header.split(",").index("LIKED")
    cells = [row.split(",") for row in rows]
    said = [{"0": "no", "1": "Yes"}[row[place]] for row in cells]
    path = tmp_path / "said.csv"
    lines = [
        ",".join([*row[:place], yes, *row[place + 1 :]])
        for row, yes in zip(cells, said, strict=True)
    ]
    path.write_text("\n".join([header, *lines]))
    config = OmegaConf.to_object(found_in(path).config)
    assert "LIKED" in config.data["labels"]
    assert config.task.heads["liked"]["_target_"] == "mtrec.Binary"
    dataset, _ = load(config.data)
    expected, _ = load(OmegaConf.to_object(found_in(file).config).data)
    for name in ("user", "item", "LIKED"):
        np.testing.assert_array_equal(dataset.interactions[name], expected.interactions[name])


def test_without_times_a_batch_is_of_rows_where_requests_have_context(file, tmp_path):
    header, *rows = file.read_text("utf-8-sig").splitlines()
    names, rng = header.split(","), np.random.default_rng(2)
    baskets, lines = {}, []
    for row in rows:
        date, *rest = row.split(",")
        device = "phone" if rng.random() < 0.5 else "web"
        basket, device = baskets.setdefault((date, rest[0]), (len(baskets), device))
        lines.append(",".join([*rest, f"b{basket}", device]))
    path = tmp_path / "baskets.csv"
    path.write_text("\n".join([",".join([*names[1:], "BASKET_ID", "DEVICE"]), *lines]))
    config = OmegaConf.to_object(found_in(path).config)
    assert config.data["timestamp"] is None
    assert config.data["context"] == ["DEVICE"]
    assert config.train.batch_of == "rows"
