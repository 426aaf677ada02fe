"""Configs as the commands compose them."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mtrec.config import conf_directory
from mtrec.jobs.schema import register

# A job of seconds.
SMALL = (
    "data=synthetic",
    "data.num_users=60",
    "data.num_items=50",
    "data.num_interactions=900",
    "train.global_batch=20",
)


def composed(*overrides, name="config", folder=""):
    """The composed config, with the schema's types but without its checks."""
    register()
    with initialize_config_dir(str(conf_directory() / folder), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    assert isinstance(config, DictConfig)
    return config


def config_of(*overrides):
    """The config that `python -m mtrec.launch <overrides>` would run."""
    return OmegaConf.to_object(composed(*overrides))
