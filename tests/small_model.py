"""Small models that several tests build on."""

from small_data import all_rows
from small_negatives import negatives

from mtrec.heads.contrastive import Contrastive
from mtrec.heads.rating import Rating
from mtrec.heads.repeat import Repeat
from mtrec.heads.retrieval import Retrieval
from mtrec.heads.retrieval_losses import ImplicitSquared, Softmax
from mtrec.model.features import Categorical, Hashed, History
from mtrec.model.own_items import OwnItems
from mtrec.model.pooling import Attention, Sqrtn, Transformer
from mtrec.model.recommender import Recommender
from mtrec.model.sharing import PLE, STEM, MMoE, SharedBottom
from mtrec.model.tower import Tower


def implicit_squared(*, pool="catalogue", dim=None, **changed):
    """A retrieval head with the implicit squared loss."""
    loss, made = ImplicitSquared(all_pairs_weight=0.15), negatives(pool)
    how = {"normalize": False, "temperature": 1.0} | changed
    return Retrieval(dim=dim, negatives=made, loss=loss, **how)


def softmax(*, pool="in_batch", dim=None, same_tower=False, **changed):
    """A retrieval head with the sampled softmax."""
    loss = Softmax(log_q_correction="all", hardest=None, same_tower=same_tower)
    how = {"normalize": True, "temperature": 0.2} | changed
    return Retrieval(dim=dim, negatives=negatives(pool), loss=loss, **how)


def rating(*, dim=4, members=1, layers=(), **more):
    """A rating head."""
    return Rating(label="rating", dim=dim, members=members, layers=layers, l2=0.05, **more)


def repeat(*, dim=4, members=2, units=4):
    """A head that tells what is taken again."""
    own = {"own": OwnItems(units=units)}
    return Repeat(dim=dim, members=members, layers=[], l2=0.05, features=own)


def contrastive(*, dim=None, items=24):
    """A head that compares views of items."""
    return Contrastive(dim=dim, temperature=0.2, items=items)


EXPERT = {"layers": [8], "activation": "relu", "initializer": "glorot_uniform"}
# One of each scheme, for sums of width 8.
SCHEMES = {
    "shared_bottom": lambda: SharedBottom(**EXPERT),
    "mmoe": lambda: MMoE(experts=3, **EXPERT),
    "ple": lambda: PLE(shared_experts=2, task_experts=1, levels=2, **EXPERT),
    "stem": lambda: STEM(shared_experts=1, task_experts=2, **EXPERT),
}


# One of each pooling, for vectors of width 8.
POOLINGS = {
    "sqrtn": Sqrtn,
    "attention": lambda: Attention(heads=2, hidden=6),
    "transformer": lambda: Transformer(length=4, layers=2, heads=2, hidden=6),
}


def shared_bottom(*, layers=()):
    """The scheme that shares all, from an identity."""
    return SharedBottom(layers=layers, activation="relu", initializer="identity")


def recommender(
    dataset,
    heads,
    *,
    fit=None,
    dim=8,
    layers=(8,),
    scheme=None,
    pooling="sqrtn",
    dropout=None,
    bins=None,
    context=False,
    seed=1,
):
    """Towers over history and ids, and `heads` by name, adapted to the rows `fit`.

    Both towers share by `scheme`, or from the bottom: the query tower through `layers`. With
    `dropout`, users' ids are shared as well, and they and histories dropped.
    With `bins`, items have a second shared feature, the bin of their id; with `context`, requests
    have the hour of the day.
    """
    history = History(candidate="item_id", pooling=POOLINGS[pooling](), dropout=dropout or 0.0)
    query = {
        "shared": {"history": history},
        "rating": {"user_id": Categorical(column="user_id", dropout=dropout or 0.0)},
    }
    if dropout is not None:
        query["shared"]["user_id"] = Categorical(column="user_id", dropout=dropout)
    if context:
        query["shared"]["hour"] = Categorical(column="context.hour_of_day")
    candidate = {
        "shared": {"item_id": Categorical(column="item_id")},
        "rating": {"item_id": Categorical(column="item_id")},
    }
    if bins is not None:
        candidate["shared"]["bin"] = Hashed(column="item_id", bins=bins)
    sharing = [SCHEMES[scheme]() for _ in range(2)] if scheme else None
    query_sharing, candidate_sharing = sharing or (shared_bottom(layers=layers), shared_bottom())
    how = {"dim": dim, "stddev": 0.3}
    model = Recommender(
        query=Tower(features=query, sharing=query_sharing, **how),
        candidate=Tower(features=candidate, sharing=candidate_sharing, **how),
        heads=heads,
    )
    return model.adapt(dataset, all_rows(dataset) if fit is None else fit, seed=seed)
