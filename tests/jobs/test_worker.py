"""What a job refuses before it trains, though only validation shows it."""

from dataclasses import replace

import numpy as np
import pytest
from silent import Silent
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.jobs import worker
from mtrec.jobs.load import load


def refused(tmp_path, *overrides, change=lambda data, parts: (data, parts)):
    """What is said of a job that leaves no checkpoint."""
    config = config_of(*SMALL, *overrides)
    with pytest.raises(UserError) as caught:
        worker.train(config, *change(*load(config.data)), tmp_path, Silent())
    assert not list(tmp_path.rglob("*"))
    return str(caught.value)


def test_a_metric_that_no_head_has_is_refused_before_training(tmp_path):
    said = refused(tmp_path, "train.select_by=val/retrieval/foo")
    assert "must be one of val/retrieval/coverage_at_10" in said
    assert "got val/retrieval/foo" in said


def test_validation_of_items_that_all_users_have_is_refused_before_training(tmp_path):
    def known(data, parts):
        return data, replace(parts, validation=parts.fit[:20])

    said = refused(tmp_path, change=known)
    assert "where validation holds out nothing that another head is judged by" in said


def test_a_metric_that_its_rows_make_nan_is_refused_before_training(tmp_path):
    def alike(data, parts):
        rating = np.array(data.interactions["rating"])
        rating[parts.validation] = 5.0
        return replace(data, interactions={**data.interactions, "rating": rating}), parts

    heads = ["task=retrieval", "+head@task.heads.liked=binary", "+task.weights.liked=1"]
    said = refused(tmp_path, *heads, "train.select_by=val/liked/auc", change=alike)
    assert "its rows make val/liked/auc NaN" in said
