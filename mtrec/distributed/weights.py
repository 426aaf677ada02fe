"""Layers and weights that are the same in every process: by a seed and a name."""

import zlib
from typing import Any, TypeVar

import keras

from mtrec.distributed.precision import Dense

_Layer = TypeVar("_Layer", bound=keras.layers.Layer)


def seed_for(seed: int, name: str) -> int:
    """A seed of its own for everything that has a name, whatever else the model holds."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


def unnumbered(layer: keras.layers.Layer) -> str:
    """A name for a layer that is the same in every process.

    Keras numbers layers as they are made and names the optimizers' slots by them. A checkpoint
    would not be found again by a model that is not the first of its process.
    """
    return type(layer).__name__.lower()


def twin(layer: _Layer) -> _Layer:
    """A layer that shares all attributes of one whose weights are yet to be made.

    What the layer has learnt from data is not copied but shared; weights made later are not.
    """
    kind: Any = type(layer)
    other: _Layer = kind.__new__(kind)
    # Not through the constructor, whose arguments only the subclass knows.
    keras.layers.Layer.__init__(other, name=layer.name)
    made_by_keras = set(vars(other))
    for name, value in vars(layer).items():
        if name not in made_by_keras:
            setattr(other, name, value)
    return other


def dense(
    width: int, units: int, activation: str | None = None, *, name: str, seed: int
) -> keras.layers.Dense:
    """A layer from `width` to `units`, whose weights depend on the job's seed and its name."""
    kernel = keras.initializers.GlorotUniform(seed=seed_for(seed, name))
    layer = Dense(units, activation, kernel_initializer=kernel, name=name)
    layer.build((None, width))
    return layer
