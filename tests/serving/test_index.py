import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.heads.exact_search import exact_top_k, recall_of
from mtrec.heads.max_similarity import merge
from mtrec.jobs import worker
from mtrec.serving.index import ExactBuilder, ScannBuilder, load
from mtrec.serving.manifest import tower_digest

CANDIDATES, WIDTH = 20_000, 16


def clustered(count, seed):
    """Vectors `[count, WIDTH]` around 100 centres that every seed shares."""
    centres = np.random.default_rng(0).normal(size=(100, WIDTH))
    rng = np.random.default_rng(seed)
    noise = 0.5 * rng.normal(size=(count, WIDTH))
    return (centres[rng.integers(0, 100, count)] + noise).astype(np.float32)


def names(count):
    return np.array([f"item-{row}" for row in range(count)])


def digest_of(vectors, ids, encoded):
    """The digest of a tower that has one weight."""
    return tower_digest([(vectors.shape, [vectors])], ids, encoded)


def exact_index(vectors):
    ids = names(len(vectors))
    digest = digest_of(vectors, ids, {})
    return ExactBuilder()(vectors, ids=ids, digest=digest, queries=None)


def scann_builder(**changes):
    settings = {"target_recall": 0.95, "min_recall": 0.9, "k": 10, "num_queries": 200}
    return ScannBuilder(exact_below=1000, seed=0, **(settings | changes))


def sorted_positions(vectors, queries, exclude=None):
    """The whole catalogue by falling score, ties by position, the excluded left out."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    orders = np.argsort(-scores, axis=1, kind="stable")
    if exclude is None:
        return orders
    return [order[~np.isin(order, seen)] for order, seen in zip(orders, exclude, strict=True)]


def pairs(exclude):
    """What the graph takes for `exclude`: `[E, 2]` rows and positions."""
    flat = [[row, position] for row, seen in enumerate(exclude) for position in seen]
    return np.array(flat, np.int32).reshape(-1, 2)


def recall(found, truth):
    """Mean share of each row of `truth` that `found` holds."""
    return np.mean([np.isin(best, row).mean() for row, best in zip(found, truth, strict=True)])


@pytest.fixture(scope="module")
def large():
    """A ScaNN index over clustered vectors, and its vectors."""
    vectors = clustered(CANDIDATES, seed=1)
    ids = names(CANDIDATES)
    builder = scann_builder()
    digest = digest_of(vectors, ids, {})
    return builder(vectors, ids=ids, digest=digest, queries=clustered(500, seed=2)), vectors


def test_exact_search_equals_a_numpy_sort():
    vectors, queries = clustered(300, seed=1), clustered(20, seed=2)
    scores, positions = exact_index(vectors).search(queries, 300)
    truth = sorted_positions(vectors, queries)
    np.testing.assert_array_equal(positions, truth)
    products = np.take_along_axis(queries @ vectors.T, truth, axis=1)
    np.testing.assert_allclose(scores, products, rtol=1e-5, atol=1e-5)
    assert (scores.dtype, positions.dtype) == (np.float32, np.int32)


def test_exact_search_in_chunks_equals_one_search(monkeypatch):
    vectors, queries = clustered(300, seed=1), clustered(20, seed=2)
    exclude = [np.arange(row, row + 5) for row in range(20)]
    monkeypatch.setattr("mtrec.heads.exact_search.SCORES_AT_ONCE", 900)
    _, positions = exact_index(vectors).search(queries, 7, exclude=exclude)
    truth = sorted_positions(vectors, queries, exclude)
    np.testing.assert_array_equal(positions, [order[:7] for order in truth])


def test_exact_search_puts_the_lower_of_equal_positions_first():
    vectors = np.array([[1.0], [2.0], [1.0], [2.0], [1.0]], np.float32)
    _, positions = exact_index(vectors).search(np.ones((1, 1)), 4)
    np.testing.assert_array_equal(positions, [[1, 3, 0, 2]])


def several_vectors(count, seed, vectors=3):
    """Queries of several vectors around different centres, `[count, vectors, WIDTH]`."""
    return clustered(count * vectors, seed).reshape(count, vectors, WIDTH)


def sorted_by_best(vectors, queries, exclude):
    """`sorted_positions` by the highest score of each query's vectors."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).max(axis=1)
    orders = np.argsort(-scores, axis=1, kind="stable")
    return [order[~np.isin(order, seen)] for order, seen in zip(orders, exclude, strict=True)]


def test_the_best_of_every_vector_hold_the_best_of_a_query():
    vectors, queries = clustered(300, seed=1), several_vectors(20, seed=2)
    found = [exact_index(vectors).search(queries[:, k], 10) for k in range(3)]
    scores, positions = merge(*(np.concatenate(each, axis=1) for each in zip(*found, strict=True)))
    best = np.argsort(-scores.numpy(), axis=1)[:, :10]
    truth = sorted_by_best(vectors, queries, [()] * 20)
    ours = np.take_along_axis(positions.numpy(), best, axis=1)
    np.testing.assert_array_equal(ours, [order[:10] for order in truth])


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_a_query_of_several_vectors_finds_what_any_of_them_is_near(kind, large):
    index = large[0] if kind == "scann" else exact_index(clustered(4_000, seed=1))
    queries = several_vectors(20, seed=7)
    best = sorted_by_best(index.vectors, queries, [()] * 20)
    exclude = [order[: 5 * row : 2] for row, order in enumerate(best)]
    truth = np.array([o[:10] for o in sorted_by_best(index.vectors, queries, exclude)])
    exact = (queries @ index.vectors.T).max(axis=1)

    served = index.as_module().search(queries, 10, pairs(exclude))
    for scores, positions in (index.search(queries, 10, exclude=exclude), map(np.array, served)):
        assert recall(positions, truth) >= (1.0 if kind == "exact" else 0.95)
        assert all(len(np.unique(row)) == 10 for row in positions)
        assert not any(map(np.any, map(np.isin, positions, exclude)))
        assert (np.diff(scores, axis=1) <= 0).all()
        right = np.isin(positions, truth)
        given = np.take_along_axis(exact, positions, axis=1)
        np.testing.assert_allclose(scores[right], given[right], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(served[1], index.search(queries, 10, exclude=exclude)[1])


def recall_of_scann_alone(index, queries, directory):
    """Share of the best 10 that ScaNN's own reader finds, by score, in the leaves of the index.

    By score, since an item that is found for another vector than its best has less than its score.
    """
    from scann.scann_ops.py import scann_ops_pybind

    index.save(directory)
    searcher = scann_ops_pybind.load_searcher(str(directory / "scann"))
    settings = index.manifest.settings
    positions, scores = searcher.search_batched(
        queries.reshape(-1, WIDTH), 10, settings["reorder"], settings["leaves_to_search"]
    )
    hits = 0
    per_query = (len(queries), -1)
    for query, found, values in zip(
        queries, positions.reshape(per_query), scores.reshape(per_query), strict=True
    ):
        exact = (query.reshape(-1, WIDTH).astype(np.float64) @ index.vectors.T).max(axis=0)
        tenth = np.sort(exact)[-10] - 1e-5 * exact.max()
        hits += len(np.unique(found[values >= tenth]))  # NaN where the leaves held too few
    return hits / (10 * len(queries))


def test_recall_is_measured_on_queries_of_several_vectors(tmp_path):
    vectors, queries = clustered(5_000, seed=1), several_vectors(300, seed=2)
    index = scann_builder(num_queries=300, target_recall=0.3, min_recall=0.01)(
        vectors, ids=names(5_000), digest="tower", queries=queries
    )
    # In the order in which they were measured: what ScaNN finds depends on what is asked beside.
    sample = queries[np.random.default_rng(0).permutation(300)]
    ours = recall_of_scann_alone(index, sample, tmp_path / "index")
    assert index.manifest.recall_at_k == pytest.approx(ours, abs=1e-9)
    assert ours < 1


def test_scann_reaches_its_target_and_measures_what_we_measure(large, tmp_path):
    index, vectors = large
    queries = clustered(500, seed=2)
    sample = queries[np.random.default_rng(0).permutation(500)[:200]]
    ours = recall_of_scann_alone(index, sample, tmp_path / "index")
    assert index.manifest.kind == "scann"
    assert index.manifest.recall_at_k == pytest.approx(ours, abs=1e-9)
    assert ours >= 0.95
    # The sample was not used up to reach the target: unseen queries do as well, within noise.
    unseen = clustered(200, seed=3)
    _, positions = index.search(unseen, 10)
    assert recall(positions, sorted_positions(vectors, unseen)[:, :10]) >= 0.92


def test_a_higher_target_is_reached_by_a_wider_search():
    vectors, queries = clustered(5_000, seed=1), clustered(300, seed=2)
    built = {
        target: scann_builder(target_recall=target, min_recall=0.01)(
            vectors, ids=names(5_000), digest="tower", queries=queries
        )
        for target in (0.3, 0.999)
    }
    narrow, wide = built[0.3].manifest, built[0.999].manifest
    assert narrow.recall_at_k < 0.999 <= wide.recall_at_k
    assert narrow.settings["leaves_to_search"] < wide.settings["leaves_to_search"]


def test_without_queries_recall_is_measured_on_disturbed_candidates():
    vectors = clustered(5_000, seed=1)
    index = scann_builder()(vectors, ids=names(5_000), digest="tower", queries=None)
    assert index.manifest.num_queries == 200
    assert 0.95 <= index.manifest.recall_at_k <= 1.0


def test_a_tree_too_narrow_to_fill_what_is_measured_is_widened():
    # Twenty clusters of twenty items: a leaf holds fewer than the hundred that are measured.
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 8))
    vectors = np.repeat(centres, 20, axis=0) + 0.01 * rng.normal(size=(400, 8))
    queries = rng.normal(size=(200, 8))
    tree = ScannBuilder(
        exact_below=100, target_recall=1.0, min_recall=0.9, k=100, num_queries=50, seed=0
    )
    index = tree(vectors, ids=np.arange(400).astype(str), digest="", queries=queries[:50])
    best, _ = exact_top_k(vectors.astype(np.float32), queries.astype(np.float32), 10)
    assert recall_of(index.search(queries, 10)[0], best) > 0.95


def test_a_missed_min_recall_fails():
    # These queries look at the first column alone, which the others drown in the quantisation.
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, WIDTH)) * np.array([1.0] + [100.0] * (WIDTH - 1))
    queries = np.eye(1, WIDTH) + 1e-6 * rng.normal(size=(100, WIDTH))
    with pytest.raises(UserError, match=r"recall@10.*`min_recall`=0\.9;.*ExactBuilder"):
        scann_builder()(vectors, ids=names(20_000), digest="tower", queries=queries)


@pytest.mark.parametrize("size", [5, 999])
def test_a_small_catalogue_is_searched_exactly(size):
    vectors, queries = clustered(size, seed=1), clustered(10, seed=2)
    index = scann_builder()(vectors, ids=names(size), digest="tower", queries=None)
    assert index.manifest.kind == "exact"
    _, positions = index.search(queries, 5)
    np.testing.assert_array_equal(positions, sorted_positions(vectors, queries)[:, :5])


def test_excluded_items_never_come_back(large):
    index, vectors = large
    queries = clustered(30, seed=4)
    rng = np.random.default_rng(0)
    orders = sorted_positions(vectors, queries)
    # Each query has seen up to 300 of its best 400: they lie where the search looks first.
    exclude = [rng.permutation(order[:400])[: 10 * row] for row, order in enumerate(orders)]
    scores, positions = index.search(queries, 20, exclude=exclude)
    for row, seen in zip(positions, exclude, strict=True):
        assert not np.isin(row, seen).any()
        assert len(np.unique(row)) == 20
    assert (np.diff(scores, axis=1) <= 0).all()
    truth = [order[:20] for order in sorted_positions(vectors, queries, exclude)]
    assert recall(positions, truth) >= 0.9


def test_recall_holds_however_much_of_the_top_is_excluded(large):
    index, vectors = large
    queries = clustered(100, seed=7)
    rng = np.random.default_rng(0)
    exclude = [rng.permutation(order[:110])[:100] for order in sorted_positions(vectors, queries)]
    _, positions = index.search(queries, 10, exclude=exclude)
    truth = [order[:10] for order in sorted_positions(vectors, queries, exclude)]
    assert recall(positions, truth) >= 0.95


@pytest.mark.parametrize("excluded", [0, 19_000])
def test_a_search_beyond_what_the_tree_reaches_holds_no_padding(large, excluded):
    index, vectors = large
    queries = clustered(3, seed=5)
    exclude = [np.arange(excluded)] * 3
    scores, positions = index.search(queries, 1_000, exclude=exclude)
    assert np.isfinite(scores).all()
    assert all(len(np.unique(row)) == 1_000 for row in positions)
    products = np.take_along_axis(queries @ vectors.T, positions, axis=1)
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)


def test_padding_of_a_narrow_tree_is_replaced_by_exact_results(large):
    index, vectors = large
    narrow = scann_builder(target_recall=0.01, min_recall=0.01, k=CANDIDATES)(
        vectors, ids=index.ids, digest="tower", queries=clustered(2, seed=2)
    )
    assert narrow.manifest.settings["leaves_to_search"] < narrow.manifest.settings["num_leaves"]
    queries = clustered(2, seed=6)
    truth = sorted_positions(vectors, queries)[:, :8_000]
    served = narrow.as_module().search(queries, 8_000, pairs([[], []]))
    for _, positions in (narrow.search(queries, 8_000), served):
        assert all(len(np.unique(row)) == 8_000 for row in np.array(positions))
        assert recall(np.array(positions), truth) > 0.999


def test_no_queries_give_no_rows(large):
    for index in (large[0], exact_index(clustered(20, seed=1))):
        scores, positions = index.search(np.zeros((0, WIDTH)), 7)
        assert scores.shape == positions.shape == (0, 7)


def test_more_than_the_catalogue_holds_is_refused(large):
    small = exact_index(clustered(20, seed=1))
    query = clustered(1, seed=2)
    for index, size in ((small, 20), (large[0], CANDIDATES)):
        with pytest.raises(UserError, match=f"{size} items there are; got k={size + 1}"):
            index.search(query, size + 1)
    with pytest.raises(UserError, match="5 items that query 0 does not exclude; got k=6"):
        small.search(query, 6, exclude=[np.arange(15)])


@pytest.mark.parametrize("exclude", [[np.array([3])], [np.array([-1])] * 2, [np.array([20])] * 2])
def test_positions_to_exclude_must_be_positions_for_each_query(exclude):
    with pytest.raises(ValueError, match="exclude must hold"):
        exact_index(clustered(20, seed=1)).search(clustered(2, seed=2), 3, exclude=exclude)


def test_candidates_that_are_not_finite_are_refused():
    vectors = clustered(20, seed=1)
    vectors[7, 3] = np.nan
    with pytest.raises(UserError, match="item-7 is not"):
        exact_index(vectors)


def test_the_digest_tells_towers_apart():
    vectors, ids = clustered(20, seed=1), names(20)
    moved = vectors.copy()
    moved[3, 2] = np.nextafter(moved[3, 2], np.float32(9))
    digests = {
        digest_of(vectors, ids, {}),
        digest_of(moved, ids, {}),
        digest_of(vectors, np.roll(ids, 1), {}),
        digest_of(vectors[::-1], ids[::-1], {}),
        digest_of(vectors.reshape(40, -1), ids, {}),
        digest_of(vectors, ids, {"candidate/shared/genres": [np.array([0, 1, 2])]}),
        digest_of(vectors, ids, {"candidate/shared/genres": [np.array([0, 2, 1])]}),
        digest_of(vectors, ids, {"candidate/shared/tags": [np.array([0, 2, 1])]}),
    }
    assert len(digests) == 8
    assert digest_of(vectors.copy(), ids.astype("U40"), {}) == digest_of(vectors, ids, {})


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_an_index_that_has_moved_gives_the_same_results(kind, large, tmp_path):
    index = large[0] if kind == "scann" else exact_index(clustered(200, seed=1))
    queries = clustered(10, seed=4)
    index.save(tmp_path / "run" / "index")
    (tmp_path / "run").rename(tmp_path / "moved")
    loaded = load(tmp_path / "moved" / "index", digest=index.manifest.digest)
    for ours, theirs in zip(loaded.search(queries, 10), index.search(queries, 10), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.ids, index.ids)
    assert loaded.manifest == index.manifest
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["index"]


def test_saving_again_replaces_the_index(tmp_path):
    exact_index(clustered(20, seed=1)).save(tmp_path / "index")
    second = exact_index(clustered(30, seed=2))
    second.save(tmp_path / "index")
    np.testing.assert_array_equal(load(tmp_path / "index", digest=None).vectors, second.vectors)


def test_an_index_of_another_tower_is_refused(tmp_path):
    index = exact_index(clustered(20, seed=1))
    index.save(tmp_path)
    other = digest_of(clustered(20, seed=2), index.ids, {})
    with pytest.raises(UserError, match="built from the candidate tower it serves"):
        load(tmp_path, digest=other)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(index.manifest.digest, other))
    with pytest.raises(UserError, match="built from the candidate tower it serves"):
        load(tmp_path, digest=index.manifest.digest)


@pytest.mark.parametrize("harm", ["no manifest", "half manifest", "no ids", "half tree", "pickle"])
def test_a_directory_that_is_not_whole_is_refused(harm, large, tmp_path):
    large[0].save(tmp_path)
    manifest, tree = tmp_path / "manifest.json", tmp_path / "scann" / "hashed_dataset.npy"
    if harm == "no manifest":
        manifest.unlink()
    elif harm == "half manifest":
        manifest.write_text(manifest.read_text()[:200])
    elif harm == "no ids":
        (tmp_path / "ids.data.npy").unlink()
    elif harm == "half tree":
        tree.write_bytes(tree.read_bytes()[:-1000])
    else:
        (tmp_path / "scann" / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"Build it again: rm -r .*; .*mtrec.launch train\.resume="):
        load(tmp_path, digest=large[0].manifest.digest)


def test_a_failed_save_leaves_the_old_index_alone(tmp_path, monkeypatch):
    old = exact_index(clustered(20, seed=1))
    old.save(tmp_path / "index")
    monkeypatch.setattr("mtrec.serving.manifest._file_digests", lambda directory: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exact_index(clustered(30, seed=2)).save(tmp_path / "index")
    monkeypatch.undo()
    np.testing.assert_array_equal(load(tmp_path / "index", digest=None).vectors, old.vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


SERVING_JOB = """
import sys
import numpy as np
import scann
import tensorflow as tf

directory, results = sys.argv[1], {}
given = np.load(directory + "/given.npz")
for kind in ("exact", "scann"):
    module = tf.saved_model.load(directory + "/" + kind)
    for k in (10, 3_000):
        scores, positions = module.search(given["queries"], k, given["excluded"])
        results[f"{kind}_scores_{k}"], results[f"{kind}_positions_{k}"] = scores, positions
np.savez(directory + "/results.npz", **results)
assert "mtrec" not in sys.modules
"""


class Served(tf.Module):
    """A model's own function around the search, as an export holds it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, WIDTH], tf.float32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
        ]
    )
    def search(self, queries, k, excluded):
        return self.module.search(queries, k, excluded)


def test_a_fresh_process_gets_the_same_results_from_a_saved_model(large, tmp_path):
    indexes = {"exact": exact_index(clustered(4_000, seed=1)), "scann": large[0]}
    queries = clustered(10, seed=4)
    # From nothing to 90 seen items a query, some of them twice.
    exclude = [np.arange(0, 20 * row, 2) % 1_000 for row in range(10)]
    excluded = pairs([[*seen, *seen[:3]] for seen in exclude])
    np.savez(tmp_path / "given.npz", queries=queries, excluded=excluded)
    for kind, index in indexes.items():
        tf.saved_model.save(Served(index.as_module()), str(tmp_path / kind))
    command = [sys.executable, "-c", SERVING_JOB, str(tmp_path)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    results = np.load(tmp_path / "results.npz")
    for kind, index in indexes.items():
        for k in (10, 3_000):
            scores, positions = index.search(queries, k, exclude=exclude)
            np.testing.assert_allclose(results[f"{kind}_scores_{k}"], scores, rtol=1e-5, atol=1e-5)
            # Among thousands, two scores may be equal but for rounding.
            assert recall(results[f"{kind}_positions_{k}"], positions) > 0.999
            np.testing.assert_array_equal(
                results[f"{kind}_positions_{k}"][:, :10], positions[:, :10]
            )


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_the_graph_leaves_out_what_a_query_excludes(kind, large):
    index = large[0] if kind == "scann" else exact_index(clustered(4_000, seed=1))
    queries = clustered(20, seed=7)
    best = sorted_positions(index.vectors, queries)
    rng = np.random.default_rng(0)
    exclude = [rng.permutation(order[:110])[: 5 * row] for row, order in enumerate(best)]
    _, positions = index.as_module().search(queries, 10, pairs(exclude))
    for row, seen in zip(np.array(positions), exclude, strict=True):
        assert not np.isin(row, seen).any()
    truth = [order[:10] for order in sorted_positions(index.vectors, queries, exclude)]
    assert recall(np.array(positions), truth) >= (1.0 if kind == "exact" else 0.95)


def test_the_graph_falls_back_to_exact_search_for_the_rows_that_need_it(large):
    index, vectors = large
    narrow = scann_builder(target_recall=0.01, min_recall=0.01, k=CANDIDATES)(
        vectors, ids=index.ids, digest="tower", queries=clustered(2, seed=2)
    )
    queries = clustered(20, seed=6)
    # At this depth the tree has enough for some of the queries and not for others.
    raw = narrow._searcher.search_batched(
        queries,
        1_000,
        *(narrow.manifest.settings[name] for name in ("reorder", "leaves_to_search")),
    )[1]
    short = np.isnan(raw[:, -1])
    assert 0 < short.sum() < 20
    exclude = [np.array([order[0], order[5]]) for order in sorted_positions(vectors, queries)]
    ours = narrow.as_module().search(queries, 1_000, pairs(exclude))
    theirs = narrow.search(queries, 1_000, exclude=exclude)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    # Two scores may be equal but for rounding: an item is the right one by its score.
    for positions in (ours[1].numpy(), theirs[1]):
        scores = np.take_along_axis(queries @ vectors.T, positions, axis=1)
        np.testing.assert_allclose(scores, theirs[0], rtol=1e-4, atol=1e-4)
        assert all(len(np.unique(row)) == 1_000 for row in positions)
        assert not any(map(np.any, map(np.isin, positions, exclude)))


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05, 0.0005])
def test_what_is_kept_of_a_tree_is_found_as_exact_search_finds_it(large, share):
    index, vectors = large
    queries, kept = clustered(50, seed=9), np.random.default_rng(0).random(CANDIDATES) < share
    left = np.flatnonzero(kept)
    few, rows = index.among(kept)
    assert index.among(kept.copy())[0] is few  # compiled once
    mine = [left[row % len(left) :: 40] for row in range(50)]
    k = min(10, len(left) - 2)
    excluded = pairs([np.searchsorted(rows, own) for own in mine])
    truth = [
        left[order][:k]
        for order in sorted_positions(
            vectors[left], queries, [np.searchsorted(left, own) for own in mine]
        )
    ]
    for search in (few.at_once, few.as_module().up_to):
        scores, positions = search(queries, k, excluded)
        found = rows[positions.numpy()]
        assert kept[found].all()
        assert not any(np.isin(row, own).any() for row, own in zip(found, mine, strict=True))
        assert recall(found, truth) >= (0.95 if share > 0.1 else 1)
        # More than there are: what there is, and -inf after it.
        scores, positions = search(queries[:1], len(rows) if share < 0.1 else 15_000, excluded[:0])
        assert np.isfinite(scores).sum() == min(len(left), 15_000)


@pytest.mark.parametrize("k", [0, 16, 21])
def test_the_graph_refuses_more_than_a_query_has_left(k):
    index = exact_index(clustered(20, seed=1))
    excluded = pairs([[], [3, 4, 5, 6, 7, 7]])
    module = index.as_module()
    assert module.search(clustered(2, seed=2), 15, excluded)[0].shape == (2, 15)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"between 1 and 15, .*; got k={k}"):
        module.search(clustered(2, seed=2), k, excluded)


def test_the_manifest_is_plain_json_with_what_was_measured(large, tmp_path):
    large[0].save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["kind"] == "scann"
    assert manifest["catalogue_size"] == CANDIDATES
    assert manifest["dimension"] == WIDTH
    assert manifest["k"] == 10
    assert manifest["recall_at_k"] >= 0.95
    assert manifest["digest"] == digest_of(large[1], large[0].ids, {})
    assert {"ids.data.npy", "ids.offsets.npy", "vectors.npy"} < set(manifest["files"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("min_recall", 2), ("min_recall", 0), ("target_recall", -0.5), ("target_recall", 1.5)],
        *[("k", -1), ("num_queries", 0), ("exact_below", -1)],
    ],
)
def test_an_option_of_the_index_that_means_nothing_is_refused_before_training(option, value):
    config = config_of(*SMALL, f"index.{option}={value}")
    with pytest.raises(UserError, match=rf"^index.{option} must be .*; got {value}"):
        worker.train(config, None, None, None, None)
