"""The exact index of a run that was never trained by a job."""

import numpy as np

from mtrec.model.encode import embed_items
from mtrec.serving.index import ExactBuilder


def exact_index(run):
    """Built from the run's retrieval head, and saved where a job leaves it."""
    vectors = embed_items(run.model, run.dataset.num_items)["retrieval"]
    index = ExactBuilder()(
        np.asarray(run.model.heads["retrieval"].embed(vectors)),
        ids=run.item_ids,
        digest=run.tower_digest,
        queries=None,
    )
    index.save(run.directory / "index")
    return index
