"""The run directory: the names of what it holds, and its small files."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from mtrec.config import Config, DataConfig
from mtrec.tracking.targets import check_targets
from mtrec.tracking.whole import beside, write_text

CONFIG = "config.yaml"
METRICS = "metrics.json"
MEASURED = "measured"
EVALUATION = "evaluation.json"
USERS = "evaluation_users.parquet"
CHECKPOINTS = "checkpoints"
INDEX = "index"
MODEL = "model"
DATA = "data"
# What a job writes into the directories of its run directory. Whatever else lies in one is not its
# own, and stays.
OURS = {
    CHECKPOINTS: ("selected", "step-*/state.json", "step-*/weights*", ".step-*", ".selected.*"),
    DATA: ("about.json", "split.json", "*.npy"),
    INDEX: ("manifest.json", "vectors.npy", "ids.*.npy", "scann/*.pb*", "scann/*.npy"),
    MEASURED: ("*.npz",),
    MODEL: (
        "saved_model.pb",
        "fingerprint.pb",
        "new_users.json",
        "variables/variables.*",
        "assets/*.txt",
    ),
}


def save_config(config: Config, directory: Path) -> None:
    """Writes the resolved config, from which the run can be rebuilt."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def is_run(directory: Path) -> bool:
    """Whether the `config.yaml` of a directory is one that a job wrote."""
    try:
        saved = OmegaConf.load(directory / CONFIG)
    except (OSError, YAMLError):
        return False
    return isinstance(saved, DictConfig) and {f.name for f in fields(Config)} <= set(saved)


def is_empty(directory: Path) -> bool:
    """Whether a job may begin in a directory: it is not there, or nothing is in it."""
    # A job that died while it wrote its config left this.
    partial = beside(directory / CONFIG, "partial")
    return not directory.is_dir() or all(path == partial for path in directory.iterdir())


def load_config(directory: Path, *, trusted: Sequence[str] = ()) -> Config:
    """Reads the config of a run directory.

    Args:
        directory: The run directory.
        trusted: The packages, beside mtrec, whose classes it may name.

    Raises:
        UserError: If it names any other; see `mtrec.tracking.targets`.
    """
    saved = cast(DictConfig, OmegaConf.load(directory / CONFIG))
    check_targets(OmegaConf.to_container(saved), source=directory / CONFIG, trusted=trusted)
    # Values of the data source are resolved in `load`; its own fields are not needed again.
    saved.data = {field.name: saved.data[field.name] for field in fields(DataConfig)}
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), saved)))


def save_metrics(metrics: dict[str, float], directory: Path) -> None:
    """Writes the flat metrics of the run."""
    write_text(directory / METRICS, json.dumps(metrics, indent=2, sort_keys=True) + "\n")


def load_metrics(directory: Path) -> dict[str, float]:
    """Reads the flat metrics of a finished run."""
    return cast(dict[str, float], json.loads((directory / METRICS).read_text()))
