import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtrec.training.optimizers import Adam, LazyAdam, RowWiseAdagrad, sum_by_row

ROWS, WIDTH, LR, EPSILON = 12, 3, 0.1, 1e-8


def row_wise_adagrad(learning_rate=LR):
    return RowWiseAdagrad(learning_rate=learning_rate, initial_accumulator=0.1, epsilon=EPSILON)


def lazy_adam(learning_rate=LR):
    return LazyAdam(learning_rate=learning_rate, beta_1=0.9, beta_2=0.999, epsilon=EPSILON)


def batches(steps, size=8):
    """Seeded (ids, gradients) whose ids repeat within a batch and leave rows untouched."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        ids = rng.integers(0, ROWS - 2, size)
        ids[1] = ids[0]
        yield ids.astype(np.int32), rng.normal(size=(size, WIDTH)).astype(np.float32)


def summed(ids, gradients):
    dense = np.zeros((ROWS, WIDTH))
    np.add.at(dense, ids, gradients)
    return dense, np.unique(ids)


def numpy_row_wise_adagrad(table, steps, rates):
    table, sums = table.astype(np.float64), np.full(ROWS, 0.1)
    for (ids, gradients), rate in zip(steps, rates, strict=True):
        dense, touched = summed(ids, gradients)
        sums[touched] += np.square(dense[touched]).mean(axis=1)
        table[touched] -= rate * dense[touched] / (np.sqrt(sums[touched]) + EPSILON)[:, None]
    return table


def numpy_lazy_adam(table, steps, rates):
    table, first, second = table.astype(np.float64), np.zeros((ROWS, WIDTH)), np.zeros(table.shape)
    for t, ((ids, gradients), rate) in enumerate(zip(steps, rates, strict=True), start=1):
        dense, touched = summed(ids, gradients)
        first[touched] = 0.9 * first[touched] + 0.1 * dense[touched]
        second[touched] = 0.999 * second[touched] + 0.001 * dense[touched] ** 2
        corrected = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        table[touched] -= corrected * first[touched] / (np.sqrt(second[touched]) + EPSILON)
    return table


both = pytest.mark.parametrize(
    ("make", "reference"),
    [(row_wise_adagrad, numpy_row_wise_adagrad), (lazy_adam, numpy_lazy_adam)],
    ids=["row_wise_adagrad", "lazy_adam"],
)


def new_table(rows=ROWS):
    values = np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32)
    return keras.Variable(values, name="table"), values


def train(optimizer, table, steps):
    """Runs the steps in a tf.function, through a lookup whose gradient is IndexedSlices."""

    @tf.function
    def step(ids, gradients):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.embedding_lookup(table.value, ids) * gradients)
        optimizer.apply_gradients([(tape.gradient(loss, table.value), table)])

    for ids, gradients in steps:
        step(ids, gradients)


def apply_sparse(optimizer, table, ids, gradients):
    slices = tf.IndexedSlices(tf.constant(gradients), tf.constant(ids))
    optimizer.apply_gradients([(slices, table)])


def test_row_wise_adagrad_gives_two_hand_worked_steps():
    table = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    optimizer = RowWiseAdagrad(learning_rate=0.5, initial_accumulator=12.5, epsilon=0.0)
    # Row 0 sums to (3, 4): accumulator 12.5 + 25 / 2 = 25, step 0.5 / 5.
    apply_sparse(optimizer, table, [0, 0], [[1.0, 3.0], [2.0, 1.0]])
    np.testing.assert_allclose(table.numpy(), [[0.7, 1.6], [3.0, 4.0]], rtol=1e-6)
    # Then (12, 12): accumulator 25 + 144 = 169, step 0.5 / 13.
    apply_sparse(optimizer, table, [0], [[12.0, 12.0]])
    expected = [[0.7 - 6 / 13, 1.6 - 6 / 13], [3.0, 4.0]]
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


def test_lazy_adam_gives_two_hand_worked_steps():
    table = keras.Variable([[1.0], [1.0], [1.0]])
    optimizer = LazyAdam(learning_rate=0.1, beta_1=0.5, beta_2=0.75, epsilon=0.0)
    # The first step moves a touched row by the learning rate, whatever its gradient 0.5 + 1.5.
    apply_sparse(optimizer, table, [0, 0], [[0.5], [1.5]])
    np.testing.assert_allclose(table.numpy(), [[0.9], [1.0], [1.0]], rtol=1e-6)
    # Row 0: m = 0.5·1 - 0.5·2 = -0.5, v = 0.75·1 + 0.25·4 = 1.75, rate = 0.1·√0.4375 / 0.75.
    # Row 1, first touched in step 2: m = 0.5·g, v = 0.25·g², same rate.
    apply_sparse(optimizer, table, [0, 1], [[-2.0], [3.0]])
    expected = [[0.9 + 1 / 30], [1.0 - 0.1 * 0.4375**0.5 / 0.75], [1.0]]
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


@both
def test_thirty_steps_with_repeated_ids_equal_numpy(make, reference):
    table, start = new_table()
    train(make(), table, batches(30))
    expected = reference(start, batches(30), [LR] * 30)
    np.testing.assert_allclose(table.numpy(), expected, atol=2e-6)


@both
def test_a_schedule_sets_the_learning_rate_of_each_step(make, reference):
    table, start = new_table()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.4, 0.2, 0.1])
    train(make(schedule), table, batches(5))
    expected = reference(start, batches(5), [0.4, 0.4, 0.2, 0.2, 0.1])
    np.testing.assert_allclose(table.numpy(), expected, atol=2e-6)


@both
def test_a_dense_gradient_updates_like_the_sparse_one(make, reference):
    table, start = new_table()
    optimizer = make()
    for ids, gradients in batches(10):
        dense, _ = summed(ids, gradients)
        optimizer.apply_gradients([(tf.constant(dense, tf.float32), table)])
    expected = reference(start, batches(10), [LR] * 10)
    np.testing.assert_allclose(table.numpy(), expected, atol=2e-6)


def test_lazy_adam_equals_keras_adam_where_every_row_is_touched():
    lazy, _ = new_table()
    dense, _ = new_table()
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(10, ROWS, WIDTH)).astype(np.float32)
    ours, theirs = lazy_adam(), keras.optimizers.Adam(LR, 0.9, 0.999, epsilon=EPSILON)
    for gradient in gradients:
        ours.apply_gradients([(tf.constant(gradient), lazy)])
        theirs.apply_gradients([(tf.constant(gradient), dense)])
    # Keras forms 1 - beta_2 in float32 and loses digits.
    np.testing.assert_allclose(lazy.numpy(), dense.numpy(), atol=1e-5)


@both
def test_a_looked_up_row_without_gradient_stays_where_it_is(make, reference):
    table, _ = new_table()
    optimizer = make()
    apply_sparse(optimizer, table, [3, 4], np.ones((2, WIDTH), np.float32))
    before = table.numpy()
    padded = np.zeros((3, WIDTH), np.float32)
    padded[1] = 1.0
    apply_sparse(optimizer, table, [3, 4, 3], padded)
    np.testing.assert_array_equal(table.numpy()[3], before[3])
    assert (table.numpy()[4] != before[4]).all()


@both
def test_a_step_on_a_million_rows_changes_only_the_touched_ones(make, reference):
    table, start = new_table(rows=1_000_000)
    ids = np.array([7, 999_999, 7, 123_456], np.int32)
    train(make(), table, [(ids, np.ones((4, WIDTH), np.float32))])
    changed = np.flatnonzero((table.numpy() != start).any(axis=1))
    np.testing.assert_array_equal(changed, [7, 123_456, 999_999])


def test_a_table_of_biases_has_rows_of_width_one():
    biases = keras.Variable([1.0, 2.0, 3.0])
    optimizer = RowWiseAdagrad(learning_rate=0.5, initial_accumulator=0.0, epsilon=0.0)
    apply_sparse(optimizer, biases, [2, 0, 2], [1.0, -4.0, 2.0])
    np.testing.assert_allclose(biases.numpy(), [1.5, 2.0, 2.5], rtol=1e-6)


def test_sum_by_row_adds_up_repeated_ids():
    slices = tf.IndexedSlices(tf.constant([[1.0], [2.0], [4.0], [0.0]]), tf.constant([5, 1, 5, 0]))
    rows, sums = sum_by_row(slices)
    assert dict(zip(rows.numpy().tolist(), sums.numpy()[:, 0].tolist(), strict=True)) == {
        5: 5.0,
        1: 2.0,
    }


@both
def test_a_restored_checkpoint_goes_on_exactly(make, reference, tmp_path):
    steps = list(batches(6))
    table, _ = new_table()
    optimizer = make()
    optimizer.build([table])
    train(optimizer, table, steps[:3])
    path = tf.train.Checkpoint(table=table.value, optimizer=optimizer).write(str(tmp_path / "ckpt"))
    train(optimizer, table, steps[3:])

    resumed, fresh = keras.Variable(np.zeros((ROWS, WIDTH), np.float32)), make()
    fresh.build([resumed])
    checkpoint = tf.train.Checkpoint(table=resumed.value, optimizer=fresh)
    checkpoint.read(path).assert_consumed()
    train(fresh, resumed, steps[3:])
    np.testing.assert_array_equal(resumed.numpy(), table.numpy())


# A process of its own: strategies of different size in one abort each other's collectives.
REPLICA_JOB = """
import sys
from mtrec.libraries import import_tensorflow
import_tensorflow()
import numpy as np, tensorflow as tf
from tests.training.test_optimizers import batches, lazy_adam, new_table, row_wise_adagrad

replicas, path = int(sys.argv[1]), sys.argv[2]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
results = {}
for make in (row_wise_adagrad, lazy_adam):
    with strategy.scope():
        table, _ = new_table()
        optimizer = make()
        optimizer.build([table])

    def replica_step(ids, gradients):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.embedding_lookup(table.value, ids) * gradients)
        optimizer.apply_gradients([(tape.gradient(loss, table.value), table)])

    step = tf.function(lambda ids, gradients: strategy.run(replica_step, (ids, gradients)))
    for columns in batches(20):
        shares = [
            strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(np.split(column, replicas)[
                    context.replica_id_in_sync_group])
            )
            for column in columns
        ]
        step(*shares)
    copies = strategy.experimental_local_results(table.value)
    results[make.__name__] = np.stack([copy.numpy() for copy in copies])
np.savez(path, **results)
"""


def test_two_replicas_equal_one_with_the_whole_batch(tmp_path):
    path = tmp_path / "two.npz"
    command = [sys.executable, "-c", REPLICA_JOB, "2", str(path)]
    root = Path(__file__).parent.parent.parent
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    two = np.load(path)
    references = {row_wise_adagrad: numpy_row_wise_adagrad, lazy_adam: numpy_lazy_adam}
    for make, reference in references.items():
        table, values = new_table()
        train(make(), table, batches(20))
        expected = reference(values, batches(20), [LR] * 20)
        np.testing.assert_allclose(table.numpy(), expected, atol=2e-6)
        assert two[make.__name__].shape[0] == 2
        for copy in two[make.__name__]:
            np.testing.assert_allclose(copy, table.numpy(), atol=1e-6)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_dense_weights_move_as_under_the_adam_of_keras_but_for_the_rounding_of_a_beta(amsgrad):
    rng = np.random.default_rng(0)
    shapes, options = [(3, 2), (4,), ()], {"epsilon": 1e-6, "clipnorm": 0.5, "amsgrad": amsgrad}
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 30)
    found = []
    for kind in (Adam, keras.optimizers.Adam):
        weights = [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]
        optimizer = kind(schedule, **options)
        optimizer.build(weights)
        found.append((weights, tf.function(optimizer.apply)))
    for _ in range(20):
        gradients = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
        for _, apply in found:
            apply(gradients)
        for ours, theirs in zip(*(weights for weights, _ in found), strict=True):
            # In float32, 1 - 0.999 has five digits left.
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    counts = [
        len(apply.get_concrete_function(gradients).graph.get_operations()) for _, apply in found
    ]
    assert counts[0] < counts[1]
