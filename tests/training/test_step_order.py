"""In the compiled step, every read of a variable comes before or after each of its writes.

TensorFlow orders reads and writes by control edges, and its dependency optimizer drops those that
follow from others. In a loop it took a way through the next iteration for such a one (2.20.0), and
so a log variance of `Uncertainty` was now and then read after it had moved.
"""

from collections import defaultdict

import pytest
import tensorflow as tf
from small_config import SMALL, config_of
from tensorflow.python.eager import context

from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.training.packed import pack
from mtrec.training.step import Step
from mtrec.training.streaming_log_q import StreamingLogQ

WRITES = ("Assign", "ResourceScatter", "ResourceApply")


def optimized_graphs(*overrides):
    """The graphs that TensorFlow runs for two calls of a step in its loop."""
    config = config_of(*SMALL, *overrides)
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    balancer, optimizers = build.balancer(config, 2), build.optimizers(config, 2)
    log_q = StreamingLogQ.of(batches)
    step = Step(model, balancer, optimizers, tf.distribute.get_strategy(), log_q=log_q)
    context.context().enable_run_metadata()
    try:
        step({0: pack(batches.step(1, 0))})
        found = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    graphs = [graph for each in found for graph in each.partition_graphs]
    return [graph for graph in graphs if any(n.op == "NextIteration" for n in graph.node)]


def unordered(graph):
    """Pairs of a read and a write of one variable that neither reaches within an iteration."""
    after, reads, writes = defaultdict(list), defaultdict(list), defaultdict(list)
    for node in graph.node:
        if node.op != "NextIteration":
            for name in node.input:
                after[name.lstrip("^").split(":")[0]].append(node.name)
        if node.op in ("ReadVariableOp", "ResourceGather"):
            reads[node.input[0]].append(node.name)
        elif node.op.startswith(WRITES):
            writes[node.input[0]].append(node.name)

    def reached(name):
        seen, left = {name}, [name]
        while left:
            new = set(after[left.pop()]) - seen
            seen |= new
            left += new
        return seen

    assert any(writes[variable] for variable in reads)
    return [
        (read, write)
        for variable in reads
        for read in reads[variable]
        for write in writes[variable]
        if write not in reached(read) and read not in reached(write)
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ("balance=uncertainty",),
        ("balance=famo",),
        ("balance=dwa",),
        ("balance=gradnorm",),
        (
            "head@task.heads.retrieval=softmax",
            "task.heads.retrieval.negatives.log_q_rate=0.1",
        ),
    ],
)
def test_every_read_of_a_variable_is_ordered_with_every_write(overrides):
    graphs = optimized_graphs(*overrides)
    assert graphs
    for graph in graphs:
        assert unordered(graph) == []
