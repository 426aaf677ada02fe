"""In bfloat16 the dense layers of training steps multiply, and nothing else does."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from small_config import SMALL, config_of

from mtrec.distributed.precision import precision, training_step
from mtrec.distributed.weights import dense
from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.training.packed import pack
from mtrec.training.step import Step
from mtrec.training.streaming_log_q import StreamingLogQ

INPUTS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def rounded(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_a_layer_multiplies_rounded_factors_in_a_training_step_alone():
    layer = dense(7, 3, "relu", name="layer", seed=1)
    layer.bias.assign([0.1, 0.2, 0.3])
    plain = layer(INPUTS)
    with precision("bfloat16"):
        np.testing.assert_array_equal(layer(INPUTS), plain)
        with training_step():
            found = layer(INPUTS)
    with precision("tf32"), training_step():
        np.testing.assert_array_equal(layer(INPUTS), plain)
    rounded = (
        a.astype(ml_dtypes.bfloat16).astype(np.float32) for a in (INPUTS, layer.kernel.numpy())
    )
    product = np.matmul(*rounded).astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = np.maximum(product + layer.bias.numpy(), 0)
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)
    assert found.dtype == tf.float32
    assert np.abs(found - plain).max() > 1e-4


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_step_multiplies_in_it_and_moves_weights_of_float32(name):
    config = config_of(*SMALL, f"train.precision={name}")
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    balancer, optimizers = build.balancer(config, 2), build.optimizers(config, 2)
    log_q = StreamingLogQ.of(batches)
    step = Step(model, balancer, optimizers, tf.distribute.get_strategy(), log_q=log_q)
    before = [v.numpy() for v in step.dense]
    with precision(name):
        taken = step({0: pack(batches.step(1, 0))})
    (compiled,) = step._compiled.values()
    function = compiled.get_concrete_function()
    graphs = [function.graph, *(f.graph for f in function.graph._functions.values())]
    kinds = {
        op.get_attr("T") for graph in graphs for op in graph.get_operations() if op.type == "MatMul"
    }
    assert (tf.bfloat16 in kinds) == (name == "bfloat16")
    assert tf.float32 in kinds  # scores
    assert np.isfinite(taken.losses).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert any((v.numpy() != b).any() for v, b in zip(step.dense, before, strict=True))
