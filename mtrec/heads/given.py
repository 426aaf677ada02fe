"""What a head makes of another head's output for the same pair, such as a purchase of a click."""

from abc import ABC, abstractmethod

import keras
import tensorflow as tf

from mtrec.distributed.weights import dense, unnumbered
from mtrec.errors import require
from mtrec.heads.pairs import Told


class Given(keras.layers.Layer, ABC):
    """A head's condition: the other head, whose representations come beside its own.

    Args:
        head: The name of the other head, which learns by both losses.
    """

    # Whether both outputs must be log odds.
    odds = False

    def __init__(self, *, head: str) -> None:
        super().__init__(name=unnumbered(self))
        self.head = head

    def create(self, *, width: int, dim: int, members: int, name: str, seed: int) -> None:
        """Makes the weights, if there are any.

        Args:
            width: Width of what the other head tells beside.
            dim: Width of what the conditioned head does.
            members: Its members.
            name: Its name.
            seed: Seed of all initial weights.
        """
        self.built = True

    @abstractmethod
    def call(self, own: Told, other: Told) -> Told:
        """What the head tells under the condition.

        Args:
            own: What it would tell alone.
            other: What the other head tells of the same pairs.
        """


class Product(Given):
    """The probability of both: `p(purchase) = p(click) p(purchase | click)`.

    The entire space multi-task model (ESMM; Ma et al., SIGIR 2018): what the head learns of its
    own is a conditional probability, and its label is learnt over all rows, those without a click
    among them. With log odds a and b of both factors, those of the product are
    `-log(e^-a + e^-b + e^-(a + b))`.
    """

    odds = True

    def call(self, own: Told, other: Told) -> Told:
        """See `Given.call`."""
        second = own.output
        first = tf.reduce_mean(other.output, axis=-1, keepdims=True) + tf.zeros_like(second)
        sums = tf.stack([-first, -second, -first - second])
        return own._replace(output=-tf.reduce_logsumexp(sums, axis=0))


class Transfer(Given):
    """What the other head knows, weighed beside what this one knows by attention.

    The adaptive information transfer of AITM (Xi et al., KDD 2021, equations 4 to 6), of hidden
    vectors q of this head (its `p * q`) and `p = g(z)` of the other, with `z` what that head's own
    transfer made, or its `p * q`: `z = sum_u w_u h1(u)` over u in (p, q), with
    `w_u = softmax_u(<h2(u), h3(u)> / sqrt(D))`. A linear layer of z comes to the output. The
    calibrator (equation 10) costs `calibration * max(y - y_other, 0)` of both probabilities, as a
    later step cannot be likelier than the one before.

    Args:
        head: See `Given`.
        calibration: Weight of the calibrator; 0 for heads that predict no probability.

    Raises:
        UserError: If the weight is below 0.
    """

    def __init__(self, *, head: str, calibration: float) -> None:
        super().__init__(head=head)
        require("`calibration`", calibration, least=0)
        self.calibration = calibration
        self.odds = calibration > 0

    def create(self, *, width: int, dim: int, members: int, name: str, seed: int) -> None:
        """Makes the layers g, h1, h2, h3 and that to the output."""
        widths = {"g": (width, dim), **{f"h{place}": (dim, dim) for place in (1, 2, 3)}}
        widths["out"] = dim, members
        self.layers = {
            part: dense(*both, name=f"{name}_given_{part}", seed=seed)
            for part, both in widths.items()
        }
        self.built = True

    def call(self, own: Told, other: Told) -> Told:
        """See `Given.call`."""
        both = tf.stack([self.layers["g"](other.hidden), own.hidden], axis=1)  # [N, 2, D]
        value, key, asked = (self.layers[f"h{place}"](both) for place in (1, 2, 3))
        score = tf.reduce_sum(key * asked, axis=-1, keepdims=True)
        weight = tf.nn.softmax(score * own.hidden.shape[-1] ** -0.5, axis=1)
        hidden = tf.reduce_sum(weight * value, axis=1)
        output, cost = own.output + self.layers["out"](hidden), own.cost
        if self.calibration:
            later, earlier = (tf.sigmoid(tf.reduce_mean(x, -1)) for x in (output, other.output))
            cost += self.calibration * tf.nn.relu(later - earlier)
        return Told(output, hidden, cost)
