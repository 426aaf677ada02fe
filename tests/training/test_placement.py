"""On a GPU every operation of a step runs there, and nothing of the batch is kept in the host.

TensorFlow runs an operation that has no kernel for GPUs on the CPU, and keeps some kernels' inputs
and outputs in the host's memory: both cost a copy of what the batch has each step. Its registry of
kernels says which, and needs no GPU. It holds those for GPUs where TensorFlow was built with CUDA,
as wheels for Linux are.
"""

import functools
from collections import Counter

import pytest
import tensorflow as tf
from small_config import SMALL, config_of
from tensorflow.python.framework import kernels, op_def_registry

from mtrec.distributed.precision import precision
from mtrec.jobs import build
from mtrec.jobs.load import load
from mtrec.training.packed import pack
from mtrec.training.step import Step
from mtrec.training.streaming_log_q import StreamingLogQ

# Calls of other graphs, which are walked too.
CALLS = {
    "If",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "StatelessIf",
    "StatelessWhile",
    "While",
}
# By operation, what has no length of its own to tell in advance and is short: axes, and a number
# for each block of scores.
SHORT = {
    "BroadcastGradientArgs": {"r0", "r1"},
    "Sum": {"reduction_indices"},
    "TensorListConcatV2": {"lengths"},
}


def graph_of(*overrides):
    """The graph that a step is compiled to."""
    config = config_of(*SMALL, *overrides)
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    balancer, optimizers = build.balancer(config, 2), build.optimizers(config, 2)
    log_q, at_once = StreamingLogQ.of(batches), config.train.encode_at_once
    strategy = tf.distribute.get_strategy()
    step = Step(model, balancer, optimizers, strategy, log_q=log_q, encode_at_once=at_once)
    traced = step._traced_once(False, {0: pack(batches.step(1, 0))})
    with precision(config.train.precision):
        return traced.get_concrete_function().graph


def operations(graph):
    """Those of a graph and of all that it calls."""
    graphs, left = {id(graph): graph}, [graph]
    while left:
        for function in left.pop()._functions.values():
            if id(function.graph) not in graphs:
                graphs[id(function.graph)] = function.graph
                left.append(function.graph)
    return [op for each in graphs.values() for op in each.get_operations()]


@functools.cache
def registered(kind):
    return list(kernels.get_registered_kernels_for_op(kind).kernel)


def fits(kernel, op):
    """Whether a kernel is made for the operation's types."""
    for constraint in kernel.constraint:
        allowed = set(constraint.allowed_values.list.type)
        types = op.get_attr(constraint.name) if allowed else []
        types = types if isinstance(types, list | tuple) else [types]
        if any(tf.as_dtype(each).as_datatype_enum not in allowed for each in types):
            return False
    return True


def gpu_kernel(op):
    """The kernel that runs on a GPU: its own, or one for all devices; None if there is none."""
    found = {k.device_type: k for k in reversed(registered(op.type)) if fits(k, op)}
    return found.get("GPU") or found.get("DEFAULT")


def tensors_by_name(op):
    """The inputs and outputs of an operation by the names that its definition gives them."""
    definition, found = op_def_registry.get(op.type), {}
    for arguments, tensors in (
        (definition.input_arg, list(op.inputs)),
        (definition.output_arg, list(op.outputs)),
    ):
        for argument in arguments:
            count = 1
            if argument.number_attr:
                count = op.get_attr(argument.number_attr)
            elif argument.type_list_attr:
                count = len(op.get_attr(argument.type_list_attr))
            found[argument.name], tensors = tensors[:count], tensors[count:]
    return found


def grows(tensor):
    """Whether a tensor may have any number of elements, as what is made of a batch has."""
    if tensor.dtype in (tf.resource, tf.variant):
        return False
    return tensor.shape.rank is None or None in tensor.shape.as_list()


def kept_in_host(op, kernel):
    if op.type == "Placeholder":  # how a function takes an argument
        (tensor,) = op.outputs
        return ["output"] if tensor.dtype == tf.int32 and tensor.consumers() else []
    return sorted(set(kernel.host_memory_arg) - SHORT.get(op.type, set()))


def misplaced(graph):
    """What of a graph would not be on a GPU: operations, and their tensors in the host's memory."""
    found = []
    for op in operations(graph):
        kernel = None if op.type in CALLS else gpu_kernel(op)
        if kernel is None:
            found += [] if op.type in CALLS else [f"{op.type} ({op.name}) has no kernel"]
            continue
        tensors = tensors_by_name(op)
        found += [
            f"{name} of {op.type} ({op.name})"
            for name in kept_in_host(op, kernel)
            if any(grows(tensor) for tensor in tensors[name])
        ]
    return found


CUDA = pytest.mark.skipif(
    not tf.test.is_built_with_cuda(), reason="this TensorFlow has no kernels for GPUs to look at"
)
IN_BATCH = "head@task.heads.retrieval=softmax"


@CUDA
@pytest.mark.parametrize(
    "overrides",
    [
        ("balance=gradnorm", "model/sharing=ple"),
        ("train.precision=bfloat16", "model/sharing=ple", "model/pooling=transformer"),
        ("model/sharing=stem", "model/pooling=attention", "optimizer=rowwise_adagrad"),
        ("model/sharing=mmoe", "model/pooling=transformer", "balance=cagrad"),
        (IN_BATCH, "task.heads.retrieval.negatives.log_q_rate=0.1", "balance=uncertainty"),
        (
            IN_BATCH,
            "task.heads.retrieval.loss.same_tower=true",
            "task.heads.retrieval.loss.hardest=8",
            "head@task.heads.rating=ordinal",
            "train.batch_of=rows",
        ),
        (
            "head@task.heads.retrieval=bpr",
            "task.heads.retrieval.query_vectors=2",
            "head@task.heads.rating=binary",
            "balance=pcgrad",
        ),
        (
            "head@task.heads.retrieval=hinge",
            "task.heads.retrieval.loss.hardest=8",
            "task.heads.rating.moving_biases=4",
            "task.heads.rating.cross=2",
            "balance=imtl_g",
        ),
        ("head@task.heads.rating=ranking", "train.encode_at_once=8", "balance=famo"),
        (
            "+head@task.heads.views=contrastive",
            "+task.weights.views=0.1",
            "+data.features.candidate.shared.bin={_target_:mtrec.Hashed,column:item_id,bins:4}",
            "balance=metabalance",
            "balance.main=retrieval",
        ),
    ],
    ids=lambda overrides: " ".join(overrides)[:60],
)
def test_all_of_a_step_is_on_the_gpu(overrides):
    assert misplaced(graph_of(*overrides)) == []


@CUDA
def test_whole_numbers_of_four_bytes_and_operations_for_cpus_alone_are_found():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None])])
    def function(whole, real):
        return whole + 1, tf.strings.as_string(real), real + 1

    found = misplaced(function.get_concrete_function().graph)
    assert {place.split(" (")[0] for place in found} == {
        "output of Placeholder",
        "x of AddV2",
        "z of AddV2",
        "AsString",
        "input of Identity",  # what the function returns
        "output of Identity",
    }


@pytest.mark.parametrize("overrides", [(), (IN_BATCH,)])
def test_dense_weights_and_gradients_take_few_kernels(overrides):
    kinds = Counter(op.type for op in operations(graph_of(*overrides)))
    # Where a factor was repeated is known but of a pooled history and of the prediction's start.
    assert kinds["BroadcastGradientArgs"] <= 8
    # Each in one kernel, and no chain of them.
    assert kinds["ResourceApplyAdam"] == 8
    assert kinds["AssignSubVariableOp"] == 0
