"""The serving index: the best k of C candidates for a query, by dot product.

A query may have several vectors; see `mtrec.heads.max_similarity`.

A small catalogue is scored exactly. Above it ScaNN searches a tree of quantised vectors (Guo et
al. 2020, arXiv:1908.10396), widened at build time until its measured recall reaches the target.
Whichever it is, `Index.search` gives k real candidates for each query, and the manifest says which
candidate tower the index was built from and how it compares with exact search.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mtrec.data.columns import Texts
from mtrec.errors import UserError
from mtrec.heads.exact_search import recall_of
from mtrec.serving.manifest import Manifest, how_to_build, read_manifest, write_manifest
from mtrec.serving.search_module import (
    ExactModule,
    Found,
    SearchFunction,
    SearchModule,
    TreeSearch,
    exact_here,
)
from mtrec.serving.tree import TreeModule, build_tree, load_tree, num_leaves, tree_here
from mtrec.tracking.run_dir import INDEX, OURS
from mtrec.tracking.whole import replacing

# ScaNN trains its quantiser on no fewer candidates.
SMALLEST_TREE = 16
# How often a search that misses its target is made twice as wide, from 5 % to all of the leaves.
WIDENINGS = 5
# A share of the candidates up to which exact search of them alone is as fast as a tree of all.
FEW = 0.1


class Index:
    """C candidate vectors, their ids, and a way to find the best of them for a query.

    Attributes:
        vectors: The candidates, `[C, D]` float32.
        ids: Their ids, `[C]` texts.
        manifest: What the index is.
        searcher: ScaNN's searcher; None when exact.
        kept: Whether each of a tree's candidates may be found, `[C]`; None for all.
    """

    def __init__(
        self,
        *,
        vectors: np.ndarray,
        ids: Texts,
        manifest: Manifest,
        searcher: Any,
        kept: np.ndarray | None = None,
    ) -> None:
        self.vectors = vectors
        self.ids = ids
        self.manifest = manifest
        self._searcher = searcher
        self._kept = kept
        self._among: tuple[np.ndarray, Index, np.ndarray] | None = None

    def search(
        self, queries: np.ndarray, k: int, *, exclude: Sequence[np.ndarray] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k best candidates of each query, best first.

        Args:
            queries: `[B, D]`, or `[B, K, D]` of K vectors each.
            k: Number of candidates for each query.
            exclude: For each of the B queries the positions to leave out, such as seen items.

        Returns:
            Scores `[B, k]` float32, and positions `[B, k]` int32 in `vectors` and `ids`.

        Raises:
            UserError: If fewer than k candidates are left for a query.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        _check_search(len(self.vectors), len(queries), k, exclude)
        if not len(queries):
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
        scores, positions = self.at_once(queries, k, _pairs(exclude))
        return scores.numpy(), positions.numpy()

    def among(self, kept: np.ndarray) -> "tuple[Index, np.ndarray]":
        """This index of some of its candidates, found exactly where they are few.

        Args:
            kept: Whether each candidate may be found, `[C]`.

        Returns:
            The index, and which of the candidates each of its positions stands for.
        """
        # Kept, since an index is compiled when it is first asked.
        if self._among is None or not np.array_equal(self._among[0], kept):
            self._among = kept, *self._of(kept)
        return self._among[1:]

    def _of(self, kept: np.ndarray) -> "tuple[Index, np.ndarray]":
        every = np.arange(len(kept), dtype=np.int32)
        if kept.all():
            return self, every
        if self._searcher is not None and kept.mean() > FEW:
            few = Index(
                vectors=self.vectors,
                ids=self.ids,
                manifest=self.manifest,
                searcher=self._searcher,
                kept=kept,
            )
            return few, every
        rows = np.flatnonzero(kept).astype(np.int32)
        manifest = replace(self.manifest, kind="exact", catalogue_size=len(rows), settings={})
        vectors, ids = self.vectors[rows], self.ids[rows]
        return Index(vectors=vectors, ids=ids, manifest=manifest, searcher=None), rows

    def at_once(self, queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
        """`SearchModule.up_to` in this process, on the CPU."""
        queries, k, excluded = map(tf.constant, (queries, k, excluded))
        return self._compiled[queries.shape.rank](queries, k, excluded)

    @cached_property
    def _compiled(self) -> dict[int, SearchFunction]:
        """The search of queries `[B, D]` and of queries `[B, K, D]`, in any number."""

        def search(queries: tf.Tensor, k: tf.Tensor, excluded: tf.Tensor) -> Found:
            with tf.device("CPU:0"):
                return self._here().up_to(queries, k, excluded)

        return {
            rank: tf.function(search, autograph=False, reduce_retracing=True) for rank in (2, 3)
        }

    def _here(self) -> SearchModule:
        tree = None if self._searcher is None else tree_here(self._searcher)
        kept = None if self._kept is None else tf.constant(self._kept)
        return self._module(exact_here(self.vectors, self._kept), tree, kept)

    def as_module(self) -> SearchModule:
        """Returns the search with variables, for a SavedModel."""
        tree = None if self._searcher is None else TreeModule(self._searcher)
        vectors = tree.vectors if tree else tf.Variable(self.vectors, trainable=False)
        kept = None if self._kept is None else tf.Variable(self._kept, trainable=False)
        return self._module(ExactModule(vectors, kept), tree, kept)

    def _module(
        self,
        exact: SearchFunction,
        tree: TreeSearch | None,
        kept: tf.Tensor | tf.Variable | None,
    ) -> SearchModule:
        share = 1.0 if self._kept is None else float(self._kept.mean())
        return SearchModule(exact=exact, manifest=self.manifest, tree=tree, kept=kept, share=share)

    def save(self, directory: Path) -> None:
        """Writes the index aside and renames it to `directory`, in place of one that was there.

        Raises:
            UserError: If `directory` holds anything else.
        """
        with replacing(Path(directory).absolute(), OURS[INDEX]) as aside:
            self._write(aside)

    def _write(self, directory: Path) -> None:
        np.save(directory / "vectors.npy", self.vectors, allow_pickle=False)
        for part, values in self.ids.parts().items():
            np.save(directory / f"ids.{part}.npy", values, allow_pickle=False)
        if self._searcher is not None:
            (directory / "scann").mkdir()
            # With absolute paths an index that has been moved would not load.
            self._searcher.serialize(str(directory / "scann"), relative_path=True)
        write_manifest(directory, self.manifest)


class IndexBuilder(Protocol):
    """What a choice of the config group `index` is: candidates in, an index out."""

    def __call__(
        self, vectors: np.ndarray, *, ids: Texts, digest: str, queries: np.ndarray | None
    ) -> Index:
        """Returns an index.

        Args:
            vectors: The candidates, `[C, D]`.
            ids: Their ids, `[C]` texts.
            digest: Names the candidate tower; see `tower_digest`.
            queries: Queries `[Q, D]` or `[Q, K, D]` to measure recall on. Without them, candidates
                with noise stand in.

        Raises:
            UserError: If there are no candidates, one is not finite, or recall is too low.
        """


@dataclass(frozen=True, kw_only=True)
class ExactBuilder:
    """Builds an index that scores every candidate; an `IndexBuilder`."""

    def __call__(
        self, vectors: np.ndarray, *, ids: Texts, digest: str, queries: np.ndarray | None
    ) -> Index:
        """Returns the index; see `IndexBuilder`."""
        vectors, ids = _checked(vectors, ids)
        manifest = Manifest(
            kind="exact",
            digest=digest,
            catalogue_size=vectors.shape[0],
            dimension=vectors.shape[1],
            settings={},
            k=len(vectors),
            num_queries=0,
            recall_at_k=1.0,
            versions={"numpy": np.__version__, "tensorflow": tf.__version__},
        )
        return Index(vectors=vectors, ids=ids, manifest=manifest, searcher=None)


@dataclass(frozen=True, kw_only=True)
class ScannBuilder:
    """Builds a ScaNN index that is as wide as its recall needs; an `IndexBuilder`.

    Args:
        exact_below: A catalogue of fewer candidates gets an exact index, which is faster there.
        target_recall: Recall at which the search is widened no further.
        min_recall: Recall below which the build fails.
        k: Depth at which recall is measured.
        num_queries: Number of queries it is measured on.
        seed: Seed of the sample of queries.

    Raises:
        UserError: If a recall is not above 0 and at most 1, or a number is too small. Whichever
            index is built, so that it does not depend on the size of the catalogue.
    """

    exact_below: int
    target_recall: float
    min_recall: float
    k: int
    num_queries: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("target_recall", "min_recall"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(
                    f"`{name}` must be above 0 and at most 1; got {getattr(self, name)}."
                )
        for name, least in (("exact_below", 0), ("k", 1), ("num_queries", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")

    def __call__(
        self, vectors: np.ndarray, *, ids: Texts, digest: str, queries: np.ndarray | None
    ) -> Index:
        """Returns the index; see `IndexBuilder`."""
        exact = ExactBuilder()(vectors, ids=ids, digest=digest, queries=None)
        if len(exact.vectors) < max(self.exact_below, SMALLEST_TREE):
            return exact
        sample = self._sample(exact.vectors, queries)
        index = self._widen(exact, build_tree(exact.vectors), sample)
        index.manifest = replace(
            index.manifest,
            versions=exact.manifest.versions | {"scann": version("scann")},
        )
        return index

    def _sample(self, vectors: np.ndarray, queries: np.ndarray | None) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        pool = vectors if queries is None else queries
        sample = pool[rng.permutation(len(pool))[: self.num_queries]]
        noise = 0 if queries is not None else rng.normal(size=sample.shape) * vectors.std(axis=0)
        return sample + noise

    def _widen(self, exact: Index, tree: Any, queries: np.ndarray) -> Index:
        """Returns the narrowest index that reaches the target, or else the widest."""
        size, k = len(exact.vectors), min(self.k, len(exact.vectors))
        best, _ = exact.search(queries, k)
        base = replace(exact.manifest, kind="scann", k=k, num_queries=len(queries))
        for widening in range(WIDENINGS + 1):
            settings = {
                "num_leaves": num_leaves(size),
                "leaves_to_search": math.ceil(min(1.0, 0.05 * 2**widening) * num_leaves(size)),
                "reorder": min(size, 10 * k * 2**widening),
            }
            manifest = replace(base, settings=settings)
            index = Index(vectors=exact.vectors, ids=exact.ids, manifest=manifest, searcher=tree)
            # Of the tree alone: rows that it cannot fill, and that `search` answers exactly, say
            # nothing of a search for fewer, which the same leaves do fill.
            with tf.device("CPU:0"):
                found, _ = index._here().in_tree(queries, k, _pairs(()))
            recall = recall_of(found.numpy(), best)
            index.manifest = replace(manifest, recall_at_k=recall)
            if recall >= max(self.target_recall, self.min_recall):
                return index
        if recall < self.min_recall:
            raise UserError(
                f"recall@{k} of the index must be at least `min_recall`={self.min_recall}; got"
                f" {recall:.4f} with every leaf searched. Lower it, or take `mtrec.ExactBuilder`."
            )
        return index


def load(directory: Path, *, digest: str | None) -> Index:
    """Returns the index that `Index.save` wrote.

    Args:
        directory: Where it lies now; it may have been moved.
        digest: `tower_digest` of the model it is to serve, or None to take it as it is.

    Raises:
        UserError: If it is not whole, or was built from another candidate tower.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if digest not in (None, manifest.digest):
        raise UserError(
            f"an index must be built from the candidate tower it serves; {directory} was built"
            f" from {manifest.digest[:12]} and the model is {digest:.12}. {how_to_build(directory)}"
        )
    return Index(
        vectors=np.load(directory / "vectors.npy", allow_pickle=False),
        ids=Texts(*(np.load(directory / f"ids.{part}.npy") for part in ("offsets", "data"))),
        manifest=manifest,
        searcher=load_tree(directory / "scann") if manifest.kind == "scann" else None,
    )


def _checked(vectors: np.ndarray, ids: Texts | np.ndarray) -> tuple[np.ndarray, Texts]:
    vectors, ids = np.ascontiguousarray(vectors, np.float32), Texts.of(np.asarray(ids))
    if vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise ValueError(f"vectors must be [C, D] and ids [C]; got {vectors.shape}, {ids.shape}.")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(vectors) == 0 or len(broken):
        got = f"item {ids[broken[0]]} is not" if len(broken) else "there is none"
        raise UserError(f"an index needs finite candidate vectors; {got}. Check the trained model.")
    return vectors, ids


def _check_search(size: int, queries: int, k: int, exclude: Sequence[np.ndarray]) -> None:
    if not 1 <= k <= size:
        raise UserError(f"k must lie between 1 and the {size} items there are; got k={k}.")
    if len(exclude) not in (0, queries):
        raise ValueError(f"exclude must hold one array a query, {queries}; got {len(exclude)}.")
    for row, seen in enumerate(map(np.unique, exclude)):
        if len(seen) and not 0 <= seen[0] <= seen[-1] < size:
            raise ValueError(f"exclude must hold positions below {size}; got {seen} in row {row}.")
        left = size - len(seen)
        if left < k:
            raise UserError(
                f"k must not exceed the {left} items that query {row} does not exclude; got k={k}."
            )


def _pairs(exclude: Sequence[np.ndarray]) -> np.ndarray:
    """Positions that each query leaves out, as `SearchModule.search` takes them, `[E, 2]`."""
    rows = np.repeat(np.arange(len(exclude)), list(map(len, exclude)))
    positions = np.concatenate([np.zeros(0, np.int32), *exclude])
    return np.stack([rows, positions], axis=1).astype(np.int32)
