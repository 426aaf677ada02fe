"""mtrec: distributed multi-task training for recommenders, on TensorFlow and Keras 3.

Importing the package loads none of TensorFlow, Ray, MLflow or ScaNN: the names below are imported
when they are first used.
"""

from importlib import import_module
from time import time
from typing import Any

__version__ = "0.1.0"
# As `time.time()`: when a command's process begins, as near as its own code can tell.
imported_at = time()

_HOMES = {
    "mtrec.data.batches": ["Batches"],
    "mtrec.data.batching": ["Batching"],
    "mtrec.data.dataset": ["Dataset"],
    "mtrec.data.negatives": ["Catalogue", "InBatch"],
    "mtrec.data.schedule": ["Schedule"],
    "mtrec.data.split": ["keep_ratings", "split"],
    "mtrec.heads.amount": ["Amount"],
    "mtrec.heads.binary": ["Binary"],
    "mtrec.heads.contrastive": ["Contrastive"],
    "mtrec.heads.given": ["Product", "Transfer"],
    "mtrec.heads.head": ["Head"],
    "mtrec.heads.ordinal": ["Ordinal"],
    "mtrec.heads.pair": ["PairHead"],
    "mtrec.heads.ranking": ["Ranking"],
    "mtrec.heads.rating": ["Rating"],
    "mtrec.heads.repeat": ["Repeat"],
    "mtrec.heads.retrieval": ["Retrieval", "with_taken"],
    "mtrec.heads.retrieval_losses": ["Bpr", "Hinge", "ImplicitSquared", "Softmax"],
    "mtrec.model.features": [
        "Bucketized",
        "Categorical",
        "Hashed",
        "History",
        "Numeric",
        "Text",
    ],
    "mtrec.model.item_age": ["ItemAge"],
    "mtrec.model.labelled_history": ["LabelledHistory"],
    "mtrec.model.of_row": ["OfRow"],
    "mtrec.model.own_items": ["OwnItems"],
    "mtrec.model.pooling": ["Attention", "Mean", "Pooling", "Sqrtn", "Transformer"],
    "mtrec.model.recommender": ["Recommender"],
    "mtrec.model.sharing": ["MMoE", "PLE", "STEM", "SharedBottom", "Sharing"],
    "mtrec.model.vectors": ["Vectors"],
    "mtrec.model.timestamp": ["Timestamp"],
    "mtrec.model.tower": ["Tower"],
    "mtrec.jobs.notebook": ["fit", "open_run"],
    "mtrec.serving.answers.arrange": ["Arrange"],
    "mtrec.serving.answers.candidates": ["Best", "Newest", "Own", "Popular"],
    "mtrec.serving.answers.filter": ["Filter"],
    "mtrec.serving.answers.fuse": ["Formula", "RankSum"],
    "mtrec.serving.answers.pipeline": ["Answer"],
    "mtrec.serving.index": ["ExactBuilder", "ScannBuilder"],
    "mtrec.serving.run": ["Run"],
    "mtrec.training.balance": [
        "DynamicWeightAverage",
        "Famo",
        "Fixed",
        "RandomWeights",
        "Uncertainty",
    ],
    "mtrec.training.evaluate": ["Evaluator", "flat_metrics"],
    "mtrec.training.gradient_balance": ["CAGrad", "GradNorm", "ImtlG", "MetaBalance", "PCGrad"],
    "mtrec.training.optimizers": ["Adam", "LazyAdam", "RowWiseAdagrad"],
    "mtrec.training.step": ["Optimizers"],
    "mtrec.training.streaming_log_q": ["StreamingLogQ"],
}
# Functions that have another name in their module, because several modules call one so.
_RENAMED = {
    "load_movielens": ("mtrec.data.movielens", "load"),
    "load_synthetic": ("mtrec.data.synthetic", "load"),
    "load_table": ("mtrec.data.table", "load"),
    "train": ("mtrec.training.loop", "fit"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted({*_HOME_OF, *_RENAMED})


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        module, original = _RENAMED[name]
        return getattr(import_module(module), original)
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mtrec' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
