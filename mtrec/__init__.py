"""mtrec: distributed multi-task training for recommenders, on TensorFlow and Keras 3.

Importing the package loads none of TensorFlow, Ray, MLflow or ScaNN: the names below are imported
when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "mtrec.balance": ["DynamicWeightAverage", "Famo", "Fixed", "RandomWeights", "Uncertainty"],
    "mtrec.data.batches": ["Batches"],
    "mtrec.data.dataset": ["Dataset"],
    "mtrec.data.split": ["keep_ratings", "split"],
    "mtrec.features": [
        "Bucketized",
        "Categorical",
        "Hashed",
        "History",
        "Numeric",
        "Text",
        "Timestamp",
    ],
    "mtrec.evaluate": ["Evaluator", "flat_metrics"],
    "mtrec.heads.binary": ["Binary"],
    "mtrec.heads.contrastive": ["Contrastive"],
    "mtrec.heads.head": ["Head"],
    "mtrec.heads.ordinal": ["Ordinal"],
    "mtrec.heads.pair": ["PairHead"],
    "mtrec.heads.ranking": ["Ranking"],
    "mtrec.heads.rating": ["Rating"],
    "mtrec.heads.retrieval": ["Retrieval", "with_taken"],
    "mtrec.heads.retrieval_losses": ["Bpr", "Hinge", "ImplicitSquared", "Softmax"],
    "mtrec.index": ["ExactBuilder", "ScannBuilder"],
    "mtrec.labelled_history": ["LabelledHistory"],
    "mtrec.log_q": ["StreamingLogQ"],
    "mtrec.model": ["Recommender"],
    "mtrec.negatives": ["Catalogue", "InBatch"],
    "mtrec.optimizers": ["LazyAdam", "RowWiseAdagrad"],
    "mtrec.pooling": ["Attention", "Mean", "Pooling", "Sqrtn", "Transformer"],
    "mtrec.run": ["Run"],
    "mtrec.sharing": ["MMoE", "PLE", "STEM", "SharedBottom", "Sharing"],
    "mtrec.step": ["Optimizers"],
    "mtrec.surgery": ["CAGrad", "GradNorm", "ImtlG", "MetaBalance", "PCGrad"],
    "mtrec.tower": ["Tower"],
    "mtrec.train": ["Schedule", "fit"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mtrec' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
