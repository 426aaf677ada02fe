"""What the config of a run directory may name."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.tracking import run_dir
from mtrec.tracking.targets import check_targets

HERE = Path("config.yaml")


def check(target, *trusted):
    check_targets({"task": {"heads": [{"_target_": target}]}}, source=HERE, trusted=trusted)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.exec",
        "hydra.utils.get_method",
        # Reached through a module of ours that imports it.
        "mtrec.data.sources.subprocess.run",
        "mtrec.training.checkpoint.shutil.rmtree",
        "mtrec.model.features.np.load",
        # Functions of ours write and delete.
        "mtrec.training.checkpoint._delete",
        "mtrec.jobs.resume.mark_finished",
        "mtrec.jobs.command.fail",
        "mtrec.heads.rating.NoSuchHead",
        "mtrecs.heads.Rating",
        "keras.models.load_model",
        7,
    ],
)
def test_a_config_may_not_name_what_is_no_class_of_mtrec(target):
    with pytest.raises(UserError, match=rf"got task.heads.0._target_: {target}"):
        check(target)


def test_what_a_foreign_config_names_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "foreign_heads.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="`trusted`"):
        check("foreign_heads.Head")


def test_a_config_may_name_what_the_project_names_and_any_class_of_mtrec():
    check("mtrec.model.features.Numeric")
    check("mtrec.Adam")
    check("mtrec.load_table")


def test_a_package_that_the_command_trusts_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "own_heads.py").write_text("import os\n\ndef head():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    check("own_heads.head", "own_heads")
    with pytest.raises(UserError, match=r"own_heads.os.system"):
        check("own_heads.os.system", "own_heads")


@pytest.mark.parametrize(
    "overrides", [(), ("task=rating", "optimizer=rowwise_adagrad"), ("model/sharing=ple",)]
)
def test_the_config_of_a_job_is_read_back(overrides, tmp_path):
    config = config_of(*SMALL, *overrides)
    run_dir.save_config(config, tmp_path)
    assert run_dir.load_config(tmp_path).task == config.task


def test_a_run_directory_with_a_foreign_target_is_refused(tmp_path):
    run_dir.save_config(config_of(*SMALL), tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    saved.task.heads.rating._target_ = "os.system"
    OmegaConf.save(saved, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"config.yaml must name classes of mtrec.*os.system"):
        run_dir.load_config(tmp_path)


def test_what_an_interpolation_makes_of_a_text_is_checked_too(tmp_path):
    run_dir.save_config(config_of(*SMALL), tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    saved.task.heads.rating = "${oc.decode:'{_target_: os.system, command: id}'}"
    OmegaConf.save(saved, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"task.heads.rating._target_: os.system"):
        run_dir.load_config(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "garbage", "train: 3"])
def test_a_config_that_no_job_wrote_is_refused_with_a_sentence(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"must be as a job wrote it.*in another hydra\.run\.dir"):
        run_dir.load_config(tmp_path)


def test_a_config_with_a_value_of_another_type_is_refused_with_a_sentence(tmp_path):
    run_dir.save_config(config_of(*SMALL), tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    saved.train.epochs = "many"
    OmegaConf.save(saved, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"must be as a job wrote it, and is not: .*many"):
        run_dir.load_config(tmp_path)
