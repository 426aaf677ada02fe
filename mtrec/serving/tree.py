"""ScaNN's tree of quantised vectors: made, read, and searched here or in a SavedModel."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtrec.serving.search_module import Found, TreeSearch, in_numpy


def num_leaves(size: int) -> int:
    """Leaves of a tree of so many candidates."""
    return round(size**0.5)


def build_tree(vectors: np.ndarray) -> Any:
    """ScaNN's searcher of the candidates `[C, D]`."""
    from scann.scann_ops.py import scann_ops_pybind

    leaves = num_leaves(len(vectors))
    # How many leaves to search and how many candidates to score again is said at each search.
    builder = scann_ops_pybind.builder(vectors, num_neighbors=10, distance_measure="dot_product")
    builder = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves)
    builder = builder.score_ah(dimensions_per_block=2, anisotropic_quantization_threshold=0.2)
    return builder.reorder(reordering_num_neighbors=100).build()


def load_tree(directory: Path) -> Any:
    """ScaNN's searcher that was written to a directory."""
    from scann.scann_ops.py import scann_ops_pybind

    # ScaNN's own load_searcher would unpickle a file of document ids if it found one.
    assets = (directory / "scann_assets.pbtxt").read_text()
    tree = scann_ops_pybind.scann_pybind.ScannNumpy(str(directory), assets)
    return scann_ops_pybind.ScannSearcher(tree)


def tree_here(searcher: Any) -> TreeSearch:
    """The search of a tree in this process."""

    def search(queries: np.ndarray, *how: int) -> tuple[np.ndarray, np.ndarray]:
        positions, scores = searcher.search_batched(queries, *map(int, how))
        return scores, positions.astype(np.int32)

    return lambda *inputs: in_numpy(search, inputs)


class TreeModule(tf.Module):
    """A tree as ScaNN's own module of variables, which its TensorFlow ops search."""

    def __init__(self, searcher: Any) -> None:
        from scann.scann_ops.py import scann_ops

        super().__init__()
        with tempfile.TemporaryDirectory() as name:
            searcher.serialize(name)
            directory = Path(name)
            self._state = scann_ops.ScannState(
                [
                    [(directory / "scann_config.pb").read_bytes()],
                    [(directory / "serialized_partitioner.pb").read_bytes()],
                    np.load(directory / "datapoint_to_token.npy"),
                    [(directory / "ah_codebook.pb").read_bytes()],
                    np.load(directory / "hashed_dataset.npy"),
                    # Of a tree whose reordering is in float32, these three are empty.
                    np.int8(0),
                    np.float32(0),
                    np.float32(0),
                    np.load(directory / "dataset.npy"),
                ]
            )

    @property
    def vectors(self) -> tf.Variable:
        """The candidates, `[C, D]`."""
        return self._state.dataset

    def __call__(
        self, queries: tf.Tensor, k: tf.Tensor, reorder: tf.Tensor, leaves: tf.Tensor
    ) -> Found:
        """Searches; see `TreeSearch`."""
        from scann.scann_ops.py.scann_ops import searcher_from_module

        searcher = searcher_from_module(self._state)
        positions, scores = searcher.search_batched(queries, k, reorder, leaves)
        return scores, positions
