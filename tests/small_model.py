"""Small models that several tests build on."""

from small_data import all_rows

from mtrec.features import Categorical, History
from mtrec.heads.rating import Rating
from mtrec.heads.retrieval import ImplicitSquared, Retrieval, Softmax
from mtrec.model import Recommender, Tower


def implicit_squared(*, pool="catalogue", dim=None):
    """A retrieval head with the implicit squared loss."""
    loss = ImplicitSquared(all_pairs_weight=0.15)
    return Retrieval(dim=dim, normalize=False, temperature=1.0, pool=pool, loss=loss)


def softmax(*, pool="in_batch", dim=None):
    """A retrieval head with the sampled softmax."""
    loss = Softmax(log_q_correction=True)
    return Retrieval(dim=dim, normalize=True, temperature=0.2, pool=pool, loss=loss)


def rating(*, dim=4, layers=()):
    """A rating head."""
    return Rating(dim=dim, layers=layers, l2=0.05)


def recommender(dataset, heads, *, fit=None, dim=8, layers=(8,), seed=1):
    """Towers over history and ids, and `heads` by name, adapted to the rows `fit`."""
    query = {
        "shared": {"history": History(candidate="item_id", combiner="sqrtn")},
        "rating": {"user_id": Categorical(column="user_id")},
    }
    candidate = {
        "shared": {"item_id": Categorical(column="item_id")},
        "rating": {"item_id": Categorical(column="item_id")},
    }
    how = {"dim": dim, "activation": "relu", "initializer": "identity", "stddev": 0.3}
    model = Recommender(
        query=Tower(features=query, layers=layers, **how),
        candidate=Tower(features=candidate, layers=(), **how),
        heads=heads,
    )
    return model.adapt(dataset, all_rows(dataset) if fit is None else fit, seed=seed)
