"""Where training runs: the strategy, and sums and gathers over its replicas."""

import tensorflow as tf

from mtrec.errors import UserError


def local_strategy(devices: int | None) -> tf.distribute.Strategy:
    """The strategy over this process' devices.

    Args:
        devices: null for all GPUs, or the CPU where there is none. On a machine without GPUs a
            number makes as many logical devices of the CPU.

    Raises:
        UserError: If there are fewer GPUs than asked for.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if devices and devices > len(gpus):
            raise UserError(
                f"cluster.devices_per_worker must be at most the number of GPUs ({len(gpus)}); "
                f"got {devices}."
            )
        names = [f"GPU:{i}" for i in range(devices or len(gpus))]
    else:
        names = [f"CPU:{i}" for i in range(devices or 1)]
        if len(names) > 1:
            logical = [tf.config.LogicalDeviceConfiguration() for _ in names]
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, logical)
    # With one device the default strategy does the same without a mirror's overhead.
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()


def all_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of every replica's `value`, the same on all; its gradient is summed as well."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def all_gather(value: tf.Tensor) -> tf.Tensor:
    """Every replica's `value`, joined along the first axis; gradients return to their replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # One tensor a call: a call with mixed types fails.
    return context.all_gather(tf.identity(value), axis=0)
