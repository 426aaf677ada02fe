"""Twenty steps on a number of replicas: `python replica_job.py <replicas> <directory>`.

A process of its own for each number: strategies of different size in one process abort each
other's collectives.
"""

import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from small_batch import batches_of
from small_data import all_rows, planted
from small_model import contrastive, implicit_squared, rating, recommender, repeat, softmax
from small_negatives import in_batch, negatives

from mtrec.distributed.strategy import make_strategy
from mtrec.heads.binary import Binary
from mtrec.heads.given import Product, Transfer
from mtrec.model.own_items import OwnItems
from mtrec.training.balance import Uncertainty
from mtrec.training.evaluate import Evaluator, flat_metrics
from mtrec.training.gradient_balance import CAGrad
from mtrec.training.mined_negatives import Miner
from mtrec.training.optimizers import LazyAdam
from mtrec.training.packed import pack
from mtrec.training.step import Optimizers, Step
from mtrec.training.streaming_log_q import StreamingLogQ

STEPS = 20


def uneven(**changed):
    """Data whose ratings are missing from most users, so that replicas count differently."""
    dataset = planted(num_users=42, num_interactions=600, **changed)
    stars = dataset.interactions["rating"]
    stars[dataset.interactions["user"] % 3 > 0] = np.nan
    return dataset


# What the rating head has beside its MLP.
STARS = {"plain": {}, "moving": {"moving_biases": 4, "cross": 2, "members": 2}}


def train(
    strategy,
    *,
    pool,
    batch_of,
    balancer,
    same_tower=False,
    query_vectors=1,
    stars="plain",
    encode_at_once=None,
    own=False,
    **how,
):
    """Losses of every step, all weights and the metrics after 20 steps."""
    # Three rows or so a request.
    dataset = replace(uneven(most_repeats=4), repeats=True) if own else uneven()
    if batch_of == "requests":
        times = dataset.interactions["timestamp"] // 3600 * 3600
        columns = {**dataset.interactions, "timestamp": times}
        dataset = replace(dataset, interactions=columns, by_request=True)
    fit, held_out = np.split(np.random.default_rng(0).permutation(all_rows(dataset)), [500])
    with strategy.scope():
        heads = {
            "retrieval": implicit_squared(pool=pool),
            "softmax": softmax(
                pool=pool, dim=6, same_tower=same_tower, query_vectors=query_vectors
            ),
            "rating": rating(layers=[5], **STARS[stars]),
        }
        weights = {"retrieval": 1.0, "softmax": 0.5, "rating": 0.2}
        if own:
            heads["again"], weights["again"] = repeat(), 0.4
            heads["rating"] = rating(layers=[5], features={"own": OwnItems(units=4)})
            binary = {"label": "rating", "dim": 4, "members": 2, "layers": [], "l2": 0.01}
            heads["liked"], weights["liked"] = Binary(at_least=3, **binary), 0.5
            given = Product(head="liked")
            heads["loved"], weights["loved"] = Binary(at_least=4, given=given, **binary), 0.5
            given = Transfer(head="loved", calibration=0.5)
            heads["adored"] = Binary(at_least=5, given=given, where="rating", **binary)
            weights["adored"] = 0.5
        if "bins" in how:
            heads["similar"], weights["similar"] = contrastive(), 0.3
        model = recommender(dataset, heads, fit=fit, **how)
        if own:  # far from what it will learn
            for name in ("again", "liked", "loved", "adored"):
                heads[name].start.assign(-3.0 if name in ("liked", "loved") else 3.0)
        balancer.adapt(weights, steps_per_epoch=5, seed=3)
        optimizers = Optimizers(
            tables=LazyAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-3),
            # It clips every step: the gradient of the global batch, not each replica's share.
            dense=keras.optimizers.Adam(0.01, epsilon=1e-3, clipnorm=0.1),
        )
    batches = batches_of(
        dataset,
        fit,
        batch_of=batch_of,
        # 42 users or 500 rows: the last batch is short, and some replicas get none of it.
        global_batch=16 if batch_of == "users" else 64,
        history_share=0.6,
        chronological=batch_of == "rows",
        negatives=negatives(pool),
        num_replicas=strategy.num_replicas_in_sync,
        seed=3,
        views=max(head.views for head in heads.values()),
        before=own,
    )
    with strategy.scope():
        log_q = StreamingLogQ.of(batches)
    step = Step(model, balancer, optimizers, strategy, log_q=log_q, encode_at_once=encode_at_once)
    miner = Miner(model, batches, strategy) if batches.negatives.mined else None
    losses = []
    for number in range(STEPS):
        epoch, k = divmod(number, batches.steps_per_epoch)
        if miner and epoch and not k:
            miner.search()
        slices = enumerate(batches.step(epoch + 1, k))
        losses.append(step({replica: pack([part]) for replica, part in slices}).losses[0])
    evaluator = Evaluator(dataset, known=fit, held_out=held_out)
    weights = model.weights + balancer.weights + (log_q.weights if log_q else [])
    copies = [strategy.experimental_local_results(w.value) for w in weights]
    return {
        "losses": np.stack(losses),
        "metrics": np.array(list(flat_metrics(evaluator(model, full=False), "val").values())),
        **{
            f"weight {place} {w.name} copy {copy}": value.numpy()
            for place, (w, mine) in enumerate(zip(weights, copies, strict=True))
            for copy, value in enumerate(mine)
        },
    }


# Each has as many of the parts as go together: tracing a step is most of the time.
JOBS = {
    "several vectors": lambda: {
        "pool": "in_batch",
        "batch_of": "rows",
        "balancer": CAGrad(radius=0.5),
        "query_vectors": 3,
    },
    "mined": lambda: {
        "pool": in_batch(mined=2, log_q_rate=0.1),
        "batch_of": "rows",
        "balancer": Uncertainty(rate=0.01),
        "same_tower": True,
        "stars": "moving",
        "scheme": "stem",
        "pooling": "attention",
    },
    # Six chunks of a batch's queries, or three of each replica's.
    "chunks of users": lambda: {
        "pool": "catalogue",
        "batch_of": "users",
        "balancer": Uncertainty(rate=0.01),
        "pooling": "transformer",
        "dropout": 0.5,
        "bins": 7,
        "encode_at_once": 3,
    },
    "requests": lambda: {
        "pool": "in_batch",
        "batch_of": "requests",
        "balancer": CAGrad(radius=0.5),
        "context": True,
        "own": True,
    },
}


if __name__ == "__main__":
    replicas, directory = int(sys.argv[1]), Path(sys.argv[2])
    local = make_strategy(replicas, use_gpu=False)
    assert local.num_replicas_in_sync == replicas
    chosen = JOBS if replicas < 4 else ("several vectors",)
    for name in chosen:
        np.savez(directory / f"{replicas} {name}.npz", **train(local, **JOBS[name]()))
