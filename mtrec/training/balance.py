"""Balance: how much each task's loss counts in a step.

The objective is `sum_t w_t c_t L_t`: the configured weights w, and factors c that a balancer may
choose anew in every step. What a balancer sees carries the configured weights already, so that
`L_t` below stands for `w_t L_t`. Losses are means over the global batch: a weight means the same
whatever the batch size and the number of replicas.

A task without rows in a batch, or with nothing left to learn from them, takes no part: its factor
is 1, its state stays, and the others are balanced as if it did not exist.

Balancers here choose from the losses; those of `mtrec.training.gradient_balance` choose from the
tasks' gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from mtrec.distributed.weights import seed_for, unnumbered
from mtrec.errors import require

# Below this a loss has no logarithm or quotient worth having.
TINY = 1e-12

# A balancer's state by name: `[T]`, or a number for all tasks.
State: TypeAlias = dict[str, tf.Tensor]
# Each task's factor `[T]`, and the state after the step; what is not named stays.
Choice: TypeAlias = tuple[tf.Tensor, State]


@dataclass(frozen=True)
class Present:
    """The tasks that take part in a step; their number T is known when the step is compiled.

    Attributes:
        losses: Their weighted mean losses over the global batch, `[T]`; none is 0.
        gram: Inner products of their gradients with respect to the parameters that tasks share,
            `[T, T]`, with a positive diagonal; None unless the balancer is `of_gradients`.
        places: Place of each among all tasks, `[T]`, ascending.
        step: Number of the step, from 0.
        state: Their state.
    """

    losses: tf.Tensor
    gram: Any
    places: tf.Tensor
    step: tf.Tensor
    state: State

    @property
    def count(self) -> int:
        """T."""
        return int(self.losses.shape[0])


class Balancer(keras.layers.Layer, ABC):
    """Chooses the factor of every task's loss; its variables are part of the checkpoints.

    All replicas call it with the same values, so that all of them take the same step.
    """

    # Whether `choose` needs the tasks' gradients: those are dear.
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

    def state(self, name: str, start: float, *, shared: bool = False) -> keras.Variable:
        """A number for each task, or one for all, the same on all replicas."""
        return self.add_weight(
            shape=() if shared else (len(self.tasks),),
            initializer=keras.initializers.Constant(start),
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def factors(self, losses: tf.Tensor, gram: tf.Tensor | None, step: tf.Tensor) -> tf.Tensor:
        """The factor of each task in this step, `[T]`; moves the state on.

        A task takes part if its loss is not 0 and, for methods of gradients, neither is its
        gradient.

        Args:
            losses: Every task's weighted mean loss over the global batch, `[T]`; 0 without rows.
            gram: Inner products of their gradients with respect to the parameters that tasks share,
                `[T, T]`; None unless `of_gradients`.
            step: Number of the step, from 0.
        """
        state = {variable.name: tf.identity(variable.value) for variable in self.weights}
        present = tf.not_equal(losses, 0)
        if gram is not None:
            present &= tf.linalg.diag_part(gram) > 0
        everyone = Present(losses, gram, tf.range(len(self.tasks)), step, state)
        # Those present come first. Of `tf.where`, TensorFlow 2.20 takes the length that one branch
        # gives it for the one in all branches, and so the wrong branch.
        order = tf.argsort(tf.cast(~present, tf.int32), stable=True)
        # A branch for each number of tasks, so that methods are written for a known one.
        branches = [self._branch(everyone, order[:count]) for count in range(len(self.tasks) + 1)]
        number = tf.reduce_sum(tf.cast(present, tf.int32))
        factors, moved = tf.switch_case(number, branches)
        for variable in self.weights:
            variable.assign(moved[variable.name])
        return factors

    def _branch(self, everyone: Present, places: tf.Tensor) -> Callable[[], Choice]:
        """What is to be done where the tasks at these places, and no others, are present."""

        def all_of_them() -> Choice:
            factors, moved = self.choose(everyone)
            return factors, everyone.state | moved

        def some() -> Choice:
            factors, moved = self.choose(_restricted(everyone, places))
            state = {
                name: _put(everyone.state[name], places, value) if value.shape.rank else value
                for name, value in moved.items()
            }
            factors = _put(tf.ones_like(everyone.losses), places, factors)
            return factors, everyone.state | state

        def none() -> Choice:
            return tf.ones_like(everyone.losses), dict(everyone.state)

        count = places.shape[0]
        return all_of_them if count == len(self.tasks) else some if count else none

    @abstractmethod
    def choose(self, tasks: Present) -> Choice:
        """The factors of the tasks that take part, and their state after the step."""


def _put(values: tf.Tensor, places: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """The values with new ones at these places."""
    return tf.tensor_scatter_nd_update(values, places[:, tf.newaxis], new)


def _restricted(everyone: Present, places: tf.Tensor) -> Present:
    """What `choose` would see if only the tasks at these places existed."""
    gram = everyone.gram
    return Present(
        losses=tf.gather(everyone.losses, places),
        gram=None if gram is None else tf.gather(tf.gather(gram, places), places, axis=1),
        places=places,
        step=everyone.step,
        state={
            name: tf.gather(value, places) if value.shape.rank else value
            for name, value in everyone.state.items()
        },
    )


class Fixed(Balancer):
    """The configured weights alone."""

    def choose(self, tasks: Present) -> Choice:
        """Ones."""
        return tf.ones_like(tasks.losses), {}


class Uncertainty(Balancer):
    """`sum_t exp(-s_t) L_t + s_t` with a learnt log variance s_t of each task.

    Kendall, Gal, Cipolla 2018 (arXiv:1705.07115), with the log variance learnt as they advise; the
    factor of one half that they give to regression is absorbed in s_t. From 0, s_t moves against
    the objective's slope `1 - exp(-s_t) L_t`, by `rate` at most, so that a rate means the same
    whatever the scale of losses.

    Args:
        rate: Learning rate of s_t.
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        require("`rate`", rate, above=0)
        self.rate = rate

    def create(self) -> None:
        """Makes the log variances."""
        self.state("log_variances", 0.0)

    def choose(self, tasks: Present) -> Choice:
        """`exp(-s_t)`."""
        log_variances = tasks.state["log_variances"]
        factors = tf.exp(-log_variances)
        slope = tf.maximum(1.0 - factors * tasks.losses, -1.0)  # never above 1
        return factors, {"log_variances": log_variances - self.rate * slope}


class DynamicWeightAverage(Balancer):
    """`T softmax(r / temperature)`, r_t being a task's loss in the last epoch over the one before.

    Liu, Johns, Davison, CVPR 2019 (arXiv:1803.10704), equation 7. A task that falls slowly counts
    more. An epoch's loss is the mean over the steps that the task took part in, and an epoch
    without one is none; r_t is 1 until there are two.

    Args:
        temperature: The larger, the more equal the factors.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        require("`temperature`", temperature, above=0)
        self.temperature = temperature

    def create(self) -> None:
        """Makes each task's latest epoch with its sum of losses, and the means of two before."""
        for name in ("epoch", "total", "steps", "last", "before"):
            self.state(name, 0.0)

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        state = tasks.state
        epoch = tf.cast(tasks.step // self.steps_per_epoch, tf.float32)
        begins = tf.not_equal(state["epoch"], epoch)
        mean = tf.math.divide_no_nan(state["total"], state["steps"])
        before = tf.where(begins, state["last"], state["before"])
        last = tf.where(begins, mean, state["last"])
        ratio = tf.where(before > 0, last / tf.maximum(before, TINY), 1.0)
        return tasks.count * tf.nn.softmax(ratio / self.temperature), {
            "epoch": tf.fill([tasks.count], epoch),
            "total": tf.where(begins, 0.0, state["total"]) + tasks.losses,
            "steps": tf.where(begins, 0.0, state["steps"]) + 1.0,
            "last": last,
            "before": before,
        }


class RandomWeights(Balancer):
    """`T softmax(x)` with x drawn from a normal distribution in every step.

    Lin et al., TMLR 2022 (arXiv:2111.10603): the control that any other method should beat.
    """

    def choose(self, tasks: Present) -> Choice:
        """See the class; a function of seed and step."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(tasks.step, tf.int64)])
        drawn = tf.random.stateless_normal([tasks.count], seed)
        return tasks.count * tf.nn.softmax(drawn), {}


class Famo(Balancer):
    """Factors under which all losses fall at the same relative rate.

    Liu et al., NeurIPS 2023 (arXiv:2306.03792), algorithm 1: with `z = softmax(x)`, factors are
    `(z_t / L_t) / sum_s (z_s / L_s)`, and `x -= rate (J^T d + decay x)`, where d is by how much
    each `log L_t` fell in the step and J the Jacobian of the softmax. The loss after a step is
    taken from the task's next batch, which costs nothing, as the algorithm does. Times T here, as
    the plain sum has factors of 1.

    Args:
        rate: Learning rate of x.
        decay: Pulls x back to equal shares.
    """

    def __init__(self, *, rate: float, decay: float) -> None:
        super().__init__()
        require("`rate`", rate, above=0)
        self.rate = rate
        require("`decay`", decay, least=0)
        self.decay = decay

    def create(self) -> None:
        """Makes x and the last loss of each task; 0 where there is none yet."""
        self.state("logits", 0.0)
        self.state("losses", 0.0)

    def choose(self, tasks: Present) -> Choice:
        """See the class."""
        losses = tf.maximum(tasks.losses, TINY)
        logits, previous = tasks.state["logits"], tasks.state["losses"]
        fell = tf.math.log(tf.where(previous > 0, previous, losses)) - tf.math.log(losses)
        shares = tf.nn.softmax(logits)
        slope = shares * (fell - tf.reduce_sum(shares * fell))
        logits -= self.rate * (slope + self.decay * logits)
        weights = tf.nn.softmax(logits) / losses
        factors = tasks.count * weights / tf.reduce_sum(weights)
        return factors, {"logits": logits, "losses": losses}
