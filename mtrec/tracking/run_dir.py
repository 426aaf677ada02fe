"""The run directory: the names of what it holds, and its small files."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from mtrec.config import Config, DataConfig

CONFIG = "config.yaml"
METRICS = "metrics.json"
MEASURED = "measured"
EVALUATION = "evaluation.json"
USERS = "evaluation_users.parquet"
CHECKPOINTS = "checkpoints"
INDEX = "index"
MODEL = "model"


def save_config(config: Config, directory: Path) -> None:
    """Writes the resolved config, from which the run can be rebuilt."""
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(asdict(config)), directory / CONFIG)


def load_config(directory: Path) -> Config:
    """Reads the config of a run directory."""
    saved = cast(DictConfig, OmegaConf.load(directory / CONFIG))
    # Values of the data source are resolved in `load`; its own fields are not needed again.
    saved.data = {field.name: saved.data[field.name] for field in fields(DataConfig)}
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), saved)))


def save_metrics(metrics: dict[str, float], directory: Path) -> None:
    """Writes the flat metrics of the run."""
    (directory / METRICS).write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")


def load_metrics(directory: Path) -> dict[str, float]:
    """Reads the flat metrics of a finished run."""
    return cast(dict[str, float], json.loads((directory / METRICS).read_text()))
