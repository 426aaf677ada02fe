"""How the heads share a tower: sums of features in, a representation for each head out.

All of it happens inside one tower. Nothing mixes users with items before the retrieval head's dot
product, or no index could serve it. Shapes: `B` rows, `D` width of the sums, `W` width of the
representations.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from mtrec.distributed.weights import unnumbered
from mtrec.errors import UserError, require
from mtrec.model.experts import SHARED, Expert, Mixture

# By head, its gates from the first level to the last: the weight `[B]` of every expert by name.
Gates = dict[str, list[dict[str, tf.Tensor]]]


class Sharing(keras.layers.Layer, ABC):
    """What every scheme has: experts of one shape, each a stack of dense layers.

    Life of a scheme: `create` the weights, then `call`.

    Args:
        layers: Widths of an expert's dense layers; the last one is linear.
        activation: Activation between those layers.
        initializer: Initializer of their kernels, `identity` or a random one by Keras' name.
    """

    # Whether each head has tables of its own for the shared features, beside the shared ones.
    own_tables = False

    def __init__(self, *, layers: Sequence[int], activation: str, initializer: str) -> None:
        super().__init__(name=unnumbered(self))
        for width in layers:
            require("Each of `layers`", width, least=1)
        self.widths = list(layers)
        self.activation = activation
        self.initializer = initializer

    def output_dim(self, dim: int) -> int:
        """Width W of the representations, given the width D of the sums."""
        return self.widths[-1] if self.widths else dim

    @abstractmethod
    def create(self, *, table: str, heads: Sequence[str], dim: int, seed: int) -> None:
        """Makes the weights. Each depends on the seed and its own name alone.

        Args:
            table: The tower's table, `query` or `candidate`, with which all names begin.
            heads: The heads' names.
            dim: Width D of the sums.
            seed: Seed of all initial weights.
        """

    @abstractmethod
    def call(self, sums: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Gates]:
        """Representations `[B, W]` for each head, and the gates they were made with.

        Args:
            sums: The sum of the shared features' embeddings `[B, D]` under `shared`; with
                `own_tables`, that of each head's own embeddings under its name too.
        """

    def _expert(self, name: str, dim: int, seed: int) -> "Expert":
        return Expert(
            name=name,
            dim=dim,
            layers=self.widths,
            activation=self.activation,
            initializer=self.initializer,
            seed=seed,
        )


class SharedBottom(Sharing):
    """All heads read the output of one expert (Caruana 1997)."""

    def create(self, *, table: str, heads: Sequence[str], dim: int, seed: int) -> None:
        """Makes the expert."""
        self.heads = list(heads)
        self.bottom = self._expert(table, dim, seed)
        self.built = True

    def call(self, sums: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Gates]:
        """The same representation for every head; there are no gates."""
        return dict.fromkeys(self.heads, self.bottom(sums[SHARED])), {}


class MMoE(Sharing):
    """Multi-gate mixture of experts (Ma et al., KDD 2018, equations 5 to 7).

    Head t reads `sum_k softmax(x W_t)_k f_k(x)`, its gate's average of the same experts.

    Args:
        experts: Number of experts K.
        layers: See `Sharing`, also for `activation` and `initializer`.
    """

    def __init__(
        self, *, experts: int, layers: Sequence[int], activation: str, initializer: str
    ) -> None:
        super().__init__(layers=layers, activation=activation, initializer=initializer)
        _check_counts(experts=experts)
        _check_layers("MMoE", self.widths)
        self.experts = experts

    def create(self, *, table: str, heads: Sequence[str], dim: int, seed: int) -> None:
        """Makes the experts and a gate for each head."""
        self.mixture = Mixture(
            name=table,
            experts={SHARED: self.experts},
            readers={head: [SHARED] for head in heads},
            dim=dim,
            make_expert=self._expert,
            seed=seed,
        )
        self.built = True

    def call(self, sums: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Gates]:
        """Each head's average of the experts, and the weights it is made with."""
        shared = sums[SHARED]
        outputs, gates = self.mixture({SHARED: shared}, dict.fromkeys(self.mixture.readers, shared))
        return outputs, {head: [gate] for head, gate in gates.items()}


class PLE(Sharing):
    """Progressive layered extraction (Tang et al., RecSys 2020); CGC with one level.

    A head's gate weighs the shared experts and its own. Between levels, a gate over all experts
    makes the input of the next level's shared experts, and each head's gate that of its own.

    Args:
        shared_experts: Number of shared experts in each level.
        task_experts: Number of each head's own experts in each level.
        levels: Number of levels.
        layers: See `Sharing`, also for `activation` and `initializer`.
    """

    def __init__(
        self,
        *,
        shared_experts: int,
        task_experts: int,
        levels: int,
        layers: Sequence[int],
        activation: str,
        initializer: str,
    ) -> None:
        super().__init__(layers=layers, activation=activation, initializer=initializer)
        _check_counts(**{"shared_experts + task_experts": shared_experts + task_experts})
        _check_counts(levels=levels)
        _check_layers("PLE", self.widths)
        self.shared_experts = shared_experts
        self.task_experts = task_experts
        self.num_levels = levels

    def create(self, *, table: str, heads: Sequence[str], dim: int, seed: int) -> None:
        """Makes every level's experts and gates."""
        self.heads = list(heads)
        self.levels = []
        experts = {SHARED: self.shared_experts} | dict.fromkeys(heads, self.task_experts)
        for level in range(1, self.num_levels + 1):
            readers = {head: [SHARED, head] for head in heads}
            if level < self.num_levels:
                readers[SHARED] = [SHARED, *heads]
            mixture = Mixture(
                name=f"{table}_level_{level}",
                experts=experts,
                readers=readers,
                dim=dim,
                make_expert=self._expert,
                seed=seed,
            )
            self.levels.append(mixture)
            dim = self.output_dim(dim)
        self.built = True

    def call(self, sums: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Gates]:
        """The last level's averages, and the heads' gates in every level."""
        inputs = dict.fromkeys([SHARED, *self.heads], sums[SHARED])
        found: Gates = {head: [] for head in self.heads}
        for mixture in self.levels:
            inputs, gates = mixture(inputs, {reader: inputs[reader] for reader in mixture.readers})
            for head in self.heads:
                found[head].append(gates[head])
        return inputs, found


class STEM(Sharing):
    """Shared and task-specific embeddings (Su et al., AAAI 2024, arXiv:2308.13537).

    Each head has tables and experts of its own beside the shared ones. Its gate sees all of them,
    other heads' too, and is asked with the sum of its own and the shared embeddings; no gradient
    of a head reaches another head's tables and experts (all forward, task-specific backward).

    Args:
        shared_experts: Number of experts over the shared embeddings.
        task_experts: Number of experts over each head's own embeddings.
        layers: See `Sharing`, also for `activation` and `initializer`.
    """

    own_tables = True

    def __init__(
        self,
        *,
        shared_experts: int,
        task_experts: int,
        layers: Sequence[int],
        activation: str,
        initializer: str,
    ) -> None:
        super().__init__(layers=layers, activation=activation, initializer=initializer)
        _check_counts(**{"shared_experts + task_experts": shared_experts + task_experts})
        if max(shared_experts, task_experts) > 1:
            _check_layers("STEM", self.widths)
        self.shared_experts = shared_experts
        self.task_experts = task_experts

    def create(self, *, table: str, heads: Sequence[str], dim: int, seed: int) -> None:
        """Makes the experts over each table and a gate for each head."""
        self.mixture = Mixture(
            name=table,
            experts={SHARED: self.shared_experts} | dict.fromkeys(heads, self.task_experts),
            readers={head: [SHARED, *heads] for head in heads},
            dim=dim,
            make_expert=self._expert,
            seed=seed,
        )
        self.built = True

    def call(self, sums: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Gates]:
        """Each head's average over all tables' experts, and the weights it is made with."""
        asked = {head: sums[head] + sums[SHARED] for head in self.mixture.readers}
        outputs, gates = self.mixture(sums, asked)
        return outputs, {head: [gate] for head, gate in gates.items()}


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"`{name}` must be at least 1; got {count}.")


def _check_layers(scheme: str, layers: Sequence[int]) -> None:
    if not layers:
        raise UserError(
            f"`layers` of {scheme} must name at least one width, or several experts would be the "
            "same; got none. Set `layers`=[64], or take `mtrec.SharedBottom`."
        )
