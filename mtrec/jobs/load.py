"""From a data config to the data and its split."""

from hydra.utils import instantiate

from mtrec.config import DataConfig
from mtrec.data.dataset import Dataset
from mtrec.data.split import Split, keep_ratings, split
from mtrec.data.validate import check


def load(config: DataConfig) -> tuple[Dataset, Split]:
    """Loads, checks and splits the data.

    Raises:
        UserError: If the data cannot be had, or is not what `mtrec.data.validate` asks for.
    """
    dataset = instantiate(config.load)
    check(dataset)
    options = dict(vars(config.split))
    rating_share = options.pop("rating_share")
    parts = split(dataset, **options)
    return keep_ratings(dataset, parts.fit, share=rating_share, seed=config.split.seed), parts
