"""What a head makes of another head's output for the same pair, such as a purchase of a click."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from mtrec.data.inputs import PairInputs
from mtrec.distributed.tables import seed_for, unnumbered
from mtrec.errors import UserError, require

if TYPE_CHECKING:
    from mtrec.heads.pair import PairHead


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

    def bind(self, own: "PairHead", other: "PairHead") -> None:
        """Takes the other head.

        Args:
            own: The head that is conditioned.
            other: The other one.

        Raises:
            UserError: If both outputs must be log odds and one is not.
        """
        if self.odds and not (own.odds and other.odds):
            raise UserError(
                "`given` must join two heads that predict probabilities; one of both is none. "
                "Name a mtrec.Binary, or take a mtrec.Transfer with `calibration`=0."
            )
        # Behind a function, or Keras would count its weights as this layer's.
        self.other = lambda: other

    def create(self, own: "PairHead", *, name: str, seed: int) -> None:
        """Makes the weights, if there are any."""
        self.built = True

    @abstractmethod
    def call(
        self,
        output: tf.Tensor,
        hidden: tf.Tensor,
        query: tf.Tensor,
        candidate: tf.Tensor,
        pairs: PairInputs,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The conditioned output.

        Args:
            output: The head's own output, `[N, E]`.
            hidden: What its output is made of, `[N, D]`.
            query: The other head's query representations, `[N, W]`.
            candidate: Its candidate representations, `[N, W]`.
            pairs: The pairs.

        Returns:
            The output `[N, E]`, what later heads are told `[N, D]`, and what a pair costs `[N]`.
        """


class Product(Given):
    """The probability of both: `p(purchase) = p(click) p(purchase | click)`.

    The entire space multi-task model (ESMM; Ma et al., SIGIR 2018): what the head learns of its
    own is a conditional probability, and its label is learnt over all rows, those without a click
    among them. With log odds a and b of both factors, those of the product are
    `-log(e^-a + e^-b + e^-(a + b))`.
    """

    odds = True

    def call(
        self,
        output: tf.Tensor,
        hidden: tf.Tensor,
        query: tf.Tensor,
        candidate: tf.Tensor,
        pairs: PairInputs,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Given.call`."""
        told = self.other().told(query, candidate, pairs)
        first = tf.reduce_mean(told.output, axis=-1, keepdims=True) + tf.zeros_like(output)
        sums = tf.stack([-first, -output, -first - output])
        return -tf.reduce_logsumexp(sums, axis=0), hidden, tf.zeros(tf.shape(output)[0])


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

    def create(self, own: "PairHead", *, name: str, seed: int) -> None:
        """Makes the layers g, h1, h2, h3 and that to the output."""
        dim, other = own.dim or 0, self.other().dim or 0
        self.layers = {}
        for part, width, units in (
            ("g", other, dim),
            *((f"h{place}", dim, dim) for place in (1, 2, 3)),
            ("out", dim, own.members),
        ):
            path = f"{name}_given_{part}"
            kernel = keras.initializers.GlorotUniform(seed=seed_for(seed, path))
            layer = keras.layers.Dense(units, kernel_initializer=kernel, name=path)
            layer.build((None, width))
            self.layers[part] = layer
        self.built = True

    def call(
        self,
        output: tf.Tensor,
        hidden: tf.Tensor,
        query: tf.Tensor,
        candidate: tf.Tensor,
        pairs: PairInputs,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Given.call`."""
        told = self.other().told(query, candidate, pairs)
        both = tf.stack([self.layers["g"](told.hidden), hidden], axis=1)  # [N, 2, D]
        value, key, asked = (self.layers[f"h{place}"](both) for place in (1, 2, 3))
        score = tf.reduce_sum(key * asked, axis=-1, keepdims=True)
        weight = tf.nn.softmax(score * hidden.shape[-1] ** -0.5, axis=1)
        merged = tf.reduce_sum(weight * value, axis=1)
        output += self.layers["out"](merged)
        cost = tf.zeros(tf.shape(output)[0])
        if self.calibration:
            own, other = (tf.sigmoid(tf.reduce_mean(x, -1)) for x in (output, told.output))
            cost = self.calibration * tf.nn.relu(own - other)
        return output, merged, cost
