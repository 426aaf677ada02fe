"""From a data config to the data and its split."""

from hydra.utils import instantiate

from mtrec.config import DataConfig
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split, keep_ratings, options_of, split
from mtrec.data.validate import check


def load(config: DataConfig) -> tuple[Dataset, Split]:
    """Loads, checks and splits the data.

    Raises:
        UserError: If the data cannot be had, or is not what `mtrec.data.validate` asks for.
    """
    dataset = instantiate(config.load)
    check(dataset)
    how = config.split
    takes = {name: getattr(how, name) for name in options_of(how.kind)}
    parts = split(dataset, kind=how.kind, **takes)
    return keep_ratings(dataset, parts.fit, share=how.rating_share, seed=how.seed), parts
