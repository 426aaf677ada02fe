"""Balance: how much each task's loss counts in a step.

The objective is `sum_t w_t c_t L_t`: the configured weights w, and factors c that a balancer may
choose anew in every step. What a balancer sees carries the configured weights already, so that
`L_t` below stands for `w_t L_t`. Losses are means over the global batch: a weight means the same
whatever the batch size and the number of replicas.

Balancers here choose from the losses; those of `mtrec.training.gradient_balance` choose from the
tasks' gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import keras
import tensorflow as tf

from mtrec.distributed.tables import seed_for, unnumbered
from mtrec.errors import UserError

# Below this a loss has no logarithm or quotient worth having.
TINY = 1e-12


class Balancer(keras.layers.Layer, ABC):
    """Chooses the factor of every task's loss; its variables are part of the checkpoints.

    All replicas call it with the same values, so that all of them take the same step.
    """

    # Whether `factors` needs the tasks' gradients: those are dear.
    of_gradients = False

    def __init__(self) -> None:
        super().__init__(name=unnumbered(self))

    def adapt(self, weights: Mapping[str, float], *, steps_per_epoch: int, seed: int) -> None:
        """Takes the configured weight of each task and makes what state there is.

        Args:
            weights: Weight by task, in the order in which losses will come.
            steps_per_epoch: Steps of an epoch.
            seed: Seed of random choices.
        """
        self.tasks = list(weights)
        self.configured = tf.constant(list(weights.values()), tf.float32)
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed_for(seed, "balance")
        self.create()
        self.built = True

    def create(self) -> None:
        """Makes the state; there may be none."""

    def state(self, name: str, start: float, shape: tuple[int, ...] = ()) -> keras.Variable:
        """A variable of the balancer, `[T]` unless told otherwise, the same on all replicas."""
        return self.add_weight(
            shape=shape or (len(self.tasks),),
            initializer=keras.initializers.Constant(start),
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    @abstractmethod
    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """The factor of each task in this step, `[T]`; moves the state on.

        Args:
            losses: Every task's weighted mean loss over the global batch, `[T]`.
            gram: Inner products of their gradients with respect to the parameters that tasks share,
                `[T, T]`; None unless `of_gradients`.
            step: Number of the step, from 0.
        """

    def gradients(self, losses: tf.Tensor) -> list[tf.Tensor]:
        """The objective's gradients with respect to `trainable_variables`, in their order."""
        return []


class Fixed(Balancer):
    """The configured weights alone."""

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """Ones."""
        return tf.ones_like(losses)


class Uncertainty(Balancer):
    """`sum_t exp(-s_t) L_t + s_t` with a learnt log variance s_t of each task.

    Kendall, Gal, Cipolla 2018 (arXiv:1705.07115), with the log variance learnt as they advise; the
    factor of one half that they give to regression is absorbed in s_t. The optimizer of dense
    weights moves s_t, from 0.
    """

    def create(self) -> None:
        """Makes the log variances."""
        self._log_variances = self.add_weight(
            shape=(len(self.tasks),), initializer="zeros", name="log_variances"
        )

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """`exp(-s_t)`."""
        return tf.exp(-self._log_variances.value)

    def gradients(self, losses: tf.Tensor) -> list[tf.Tensor]:
        """`1 - exp(-s_t) L_t`."""
        return [1.0 - tf.exp(-self._log_variances.value) * losses]


class DynamicWeightAverage(Balancer):
    """`T softmax(r / temperature)`, r_t being a task's loss in the last epoch over the one before.

    Liu, Johns, Davison, CVPR 2019 (arXiv:1803.10704), equation 7. A task that falls slowly counts
    more. In the first two epochs all factors are 1.

    Args:
        temperature: The larger, the more equal the factors.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"balance.temperature must be above 0; got {temperature}.")
        self.temperature = temperature

    def create(self) -> None:
        """Makes the mean losses of this epoch so far, of the last and of the one before."""
        self._now, self._last, self._before = (
            self.state(name, 0.0) for name in ("now", "last", "before")
        )

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """See the class."""
        begins = tf.equal(step % self.steps_per_epoch, 0) & (step > 0)
        before = tf.where(begins, self._last.value, self._before.value)
        last = tf.where(begins, self._now.value, self._last.value)
        so_far = tf.where(begins, 0.0, self._now.value)
        self._before.assign(before)
        self._last.assign(last)
        self._now.assign(so_far + losses / self.steps_per_epoch)
        # Equal ratios give ones; where there are no two epochs yet, all are taken as 1.
        ratio = tf.where(before > 0, last / tf.maximum(before, TINY), 1.0)
        return len(self.tasks) * tf.nn.softmax(ratio / self.temperature)


class RandomWeights(Balancer):
    """`T softmax(x)` with x drawn from a normal distribution in every step.

    Lin et al., TMLR 2022 (arXiv:2111.10603): the control that any other method should beat.
    """

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """See the class; a function of seed and step."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)])
        return len(self.tasks) * tf.nn.softmax(tf.random.stateless_normal([len(self.tasks)], seed))


class Famo(Balancer):
    """Factors under which all losses fall at the same relative rate.

    Liu et al., NeurIPS 2023 (arXiv:2306.03792), algorithm 1: with `z = softmax(x)`, factors are
    `(z_t / L_t) / sum_s (z_s / L_s)`, and `x -= rate (J^T d + decay x)`, where d is by how much
    each `log L_t` fell in the step and J the Jacobian of the softmax. The loss after a step is
    taken from the next batch, which costs nothing, as the algorithm does.

    Args:
        rate: Learning rate of x.
        decay: Pulls x back to equal shares.
    """

    def __init__(self, *, rate: float, decay: float) -> None:
        super().__init__()
        self.rate = rate
        self.decay = decay

    def create(self) -> None:
        """Makes x and the losses of the step before."""
        self._logits = self.state("logits", 0.0)
        self._losses = self.state("losses", 0.0)

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """See the class."""
        losses = tf.maximum(losses, TINY)
        previous = tf.where(step > 0, self._losses.value, losses)
        fell = tf.math.log(previous) - tf.math.log(losses)
        shares = tf.nn.softmax(self._logits.value)
        slope = shares * (fell - tf.reduce_sum(shares * fell))
        logits = self._logits.value - self.rate * (slope + self.decay * self._logits.value)
        self._logits.assign(logits)
        self._losses.assign(losses)
        weights = tf.nn.softmax(logits) / losses
        return weights / tf.reduce_sum(weights)
