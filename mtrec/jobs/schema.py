"""What Hydra is told before it composes `conf/`: the schemas, and the sweeper of this project."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from mtrec.config import (
    CompareConfig,
    Config,
    RecommendConfig,
)
from mtrec.errors import UserError
from mtrec.heads.metrics import lower_is_better
from mtrec.jobs.doctor_config import DoctorConfig


def register() -> None:
    """Tells Hydra the schemas that the YAML files name in their defaults, and our sweeper."""
    # Hydra loads its own plugins anew when it starts: a class made before would extend another.
    plugins = Plugins.instance()
    from mtrec.jobs import sweeper

    # Hydra finds the class of a sweeper by its name, and trusts none outside this package.
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    vars(package).setdefault("__path__", [])
    vars(package)["mtrec"] = sweeper
    plugins.register(sweeper.UnionSweeper)
    OmegaConf.register_new_resolver("direction_of", _direction_of, replace=True)
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="union", node=sweeper.UnionSweeperConf)
    store.store(name="schema", node=Config)
    recommend = OmegaConf.structured(RecommendConfig)
    for name in ("features", "context"):  # columns, which are the run's to know
        OmegaConf.set_struct(recommend._get_node(name), False)
    store.store(name="schema_recommend", node=recommend)
    store.store(name="schema_compare", node=CompareConfig)
    store.store(name="schema_doctor", node=DoctorConfig)


def experiment_of(choices: Mapping[str, str | None]) -> dict[str, Any]:
    """What the experiment that Hydra was told to take gives, as it stands in its file.

    An option that it chooses of a group is the group's value, unless it gives values there.
    """
    name = choices.get("experiment")
    if name is None:
        return {}
    loader = GlobalHydra.instance().config_loader()
    # Hydra tells nobody but its repository of files where a file of a group is.
    found = loader.repository.load_config(f"experiment/{name}")  # type: ignore[attr-defined]
    if found is None:
        return {}
    chosen = (d for d in found.defaults_list or () if isinstance(d, GroupDefault) and d.override)
    given: Any = OmegaConf.to_container(found.config)
    return {str(d.group).lstrip("/"): d.value for d in chosen if not d.package} | given


def _direction_of(metric: str | None) -> str:
    """Which way a search over jobs goes for the metric that selects a job's epoch."""
    if metric is None:
        raise UserError(
            "train.select_by must name the validation metric that a search over jobs is after; got "
            "null. Set train.select_by=val/retrieval/ndcg_at_10."
        )
    return "minimize" if lower_is_better(metric) else "maximize"
