"""Negatives for tests."""

from mtrec.data.negatives import Catalogue, InBatch, Negatives


def in_batch(**changed):
    """The targets of the batch alone, but for what is changed."""
    how = {
        "uniform": 0,
        "past_batches": 0,
        "given": False,
        "mined": 0,
        "local": False,
        "log_q_rate": None,
    }
    return InBatch(**(how | changed))


def negatives(kind):
    """Negatives by the name of their kind; others as they are."""
    made = {
        "catalogue": lambda: Catalogue(most_items=1000),
        "in_batch": in_batch,
        "streaming": lambda: in_batch(log_q_rate=0.1),
        "mined": lambda: in_batch(mined=2),
    }
    return kind if kind is None or isinstance(kind, Negatives) else made[kind]()
