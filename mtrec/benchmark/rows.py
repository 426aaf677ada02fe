"""What each row of the benchmark compares."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mtrec.benchmark import arrays
from mtrec.benchmark.contest import Case, Contestant
from mtrec.benchmark.contestants.rounds import DIM

# Largest difference of what two contestants find who compute the same thing, as a share.
TOLERANCE = 1e-4
# A process without what it computes on; a row of each of two tables; a score.
_GIB, _GIB_A_ROW, _GIB_A_SCORE = 1.0, 2 * DIM * 4 / 2**30, 4 / 2**30

Found = Mapping[str, Mapping[str, Any]]


def step(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """A training step on batches that are there: softmax over the batch's items, and ratings."""
    rows, steps = size["rows"], size["steps"]
    for batch in size["batches"]:
        where = arrays.write_steps(
            folder, batch=batch, rows=rows, ids=size["ids"], steps=steps, seed=seed
        )
        expected = arrays.losses(where)
        for task in size["tasks"]:
            given = {"arrays": str(where), "joint": task == "joint"}
            ours = _steps(given, batch, steps, what="resident")
            # Weights and slots, and copies while they are made; all scores of a batch, as often as
            # a library keeps them.
            tables, scores = _GIB_A_ROW * rows, _GIB_A_SCORE * batch**2
            yield Case(
                f"{task}, batch {batch:,}",
                "example",
                [
                    Contestant("mtrec", "mtrec_step", ours, gib=_GIB + 3.5 * tables),
                    Contestant(
                        "PyTorch", "torch_step", given, "torch", _GIB + 3.5 * tables + 4 * scores
                    ),
                    Contestant(
                        "TFRS", "tfrs_step", given, "tfrs", _GIB + 2.5 * tables + 16 * scores
                    ),
                    Contestant(
                        "Keras Recommenders",
                        "keras_rs_step",
                        given,
                        "keras_rs",
                        _GIB + 2.5 * tables + 4 * scores,
                    ),
                ],
                rounds,
                check=partial(wrong_losses, expected),
            )


def wrong_losses(expected: Mapping[str, float], found: Found) -> list[str]:
    """Sentences on losses of the first step that are not those of NumPy."""
    # Keras Recommenders 0.4.0 does not take out accidental hits.
    of = {"mtrec": "pool", "PyTorch": "pool", "TFRS": "in_batch", "Keras Recommenders": "repeats"}
    pairs = [
        (name, kind, told[kind], expected[of[name] if kind == "retrieval" else kind])
        for name, told in found.items()
        for kind in ("retrieval", "rating")
        if kind in told
    ]
    return [
        f"{name}: the first {kind} loss must be {right:.6f}, as by NumPy; got {got:.6f}."
        for name, kind, got, right in pairs
        if not abs(got - right) <= TOLERANCE * right
    ]


def tables(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """A step of one softmax on tables of several sizes."""
    batch, steps = size["batch"], size["steps"]
    for ids in size["ids"]:
        contestants = []
        for rows in size["rows"]:
            where = arrays.write_steps(
                folder / str(rows), batch=batch, rows=rows, ids=ids, steps=steps, seed=seed
            )
            given = {"arrays": str(where), "joint": False, "optimizer": size["optimizer"]}
            ours = _steps(given, batch, steps, what="resident")
            gib = _GIB + 3 * _GIB_A_ROW * rows
            contestants.append(Contestant(f"{rows:,} rows", "mtrec_step", ours, gib=gib))
        yield Case(f"{ids} ids, batch {batch:,}", "example", contestants, rounds)


def input(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """Making batches alone, and training with batches that are made meanwhile."""
    rows, steps = size["rows"], size["steps"]
    for batch in size["batches"]:
        where = arrays.write_steps(
            folder, batch=batch, rows=rows, ids="zipf", steps=steps, seed=seed
        )
        given = {"arrays": str(where), "joint": True}
        there, made = (_steps(given, batch, steps, what=what) for what in ("resident", "loop"))
        gib = _GIB + 3.5 * _GIB_A_ROW * rows
        yield Case(
            f"joint, batch {batch:,}",
            "example",
            [
                Contestant("batches there", "mtrec_step", there, gib=gib),
                Contestant("batches made", "mtrec_step", made, gib=gib),
                Contestant("input alone", "mtrec_step", _steps(given, batch, steps, what="input")),
                Contestant("tf.data alone", "tf_data_input", _steps(given, batch, steps)),
            ],
            rounds,
        )


def evaluation(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """One exact ranking with all metrics, and its matrix product alone."""
    users, items = size["users"], size["items"]
    given = {"arrays": str(arrays.write_ranking(folder, users=users, items=items, seed=seed))}
    yield Case(
        f"{users:,} users, {items:,} items",
        "user",
        [
            Contestant("matrix product", "numpy_product", given),
            Contestant("mtrec", "mtrec_ranking", given),
        ],
        rounds,
        check=unequal_recalls,
    )


def unequal_recalls(found: Found) -> list[str]:
    """A sentence where recall@10 of contestants differs."""
    recalls = {name: told["recall_at_10"] for name, told in found.items()}
    if max(recalls.values()) - min(recalls.values()) <= TOLERANCE * max(recalls.values()):
        return []
    return [f"recall@10 must be the same for all; got {recalls}."]


def quality(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """Training on MovieLens-100K until recall@10 of the test part is reached."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"arrays": str(folder), "recall": size["recall"], "epochs": size["epochs"]}
    yield Case(
        f"recall@10 of {size['recall']}",
        "training",
        [
            Contestant("mtrec", "mtrec_quality", given),
            Contestant("TFRS with log Q", "tfrs_quality", given, "tfrs"),
        ],
        size["rounds"],
        warm=0,
        check=partial(short_of, size["recall"]),
    )


def short_of(recall: float, found: Found) -> list[str]:
    """A sentence on each contestant that did not reach the recall."""
    return [
        f"{name} must reach recall@10 of {recall}; got {told['recall_at_10']:.4f} after "
        f"{told['epochs']} epochs."
        for name, told in found.items()
        if told["recall_at_10"] < recall
    ]


def job(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """The main job, by stage."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"arrays": str(folder), "overrides": [*size["overrides"], f"seed={seed}"]}
    name = " ".join(size["overrides"]) or "as it is"
    ours = Contestant("mtrec", "mtrec_job", given, gib=3)
    yield Case(name, "job", [ours], size["rounds"], warm=0)


def index(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """Queries of an index at a recall, and exact search."""
    vectors, recall = size["vectors"], size["recall"]
    where = arrays.write_search(folder, vectors=vectors, queries=size["queries"], seed=seed)
    given = {"arrays": str(where), "recall": recall}
    gib = 0.25 + 2 * _GIB_A_ROW * vectors
    yield Case(
        f"{vectors:,} vectors, recall@10 of at least {recall}",
        "query",
        [
            Contestant("mtrec", "mtrec_index", given, gib=gib),
            Contestant("exact, NumPy", "numpy_index", given, gib=gib),
            Contestant("faiss IVF", "faiss_index", {**given, "kind": "ivf"}, "faiss", gib),
            Contestant("faiss HNSW", "faiss_index", {**given, "kind": "hnsw"}, "faiss", gib),
        ],
        rounds,
        check=lambda found: low_recall(found, recall),
    )


def low_recall(found: Found, recall: float) -> list[str]:
    """A sentence on each contestant whose recall is lower than it was to be."""
    return [
        f"{name} must have recall@10 of {recall}; got {told['recall']:.4f}."
        for name, told in found.items()
        if told["recall"] < recall
    ]


def replicas(size: Mapping[str, Any], folder: Path, seed: int, rounds: int) -> Iterator[Case]:
    """A joint step on several replicas of this machine."""
    batch, steps, rows = size["batch"], size["steps"], size["rows"]
    where = arrays.write_steps(folder, batch=batch, rows=rows, ids="zipf", steps=steps, seed=seed)
    given = {"arrays": str(where), "joint": True}
    expected = arrays.losses(where)
    yield Case(
        f"joint, batch {batch:,}",
        "example",
        [
            Contestant(
                f"{n} replicas",
                "mtrec_step",
                _steps(given, batch, steps, replicas=n),
                gib=_GIB + 3.5 * _GIB_A_ROW * rows * n,
            )
            for n in (1, *size["replicas"])
        ],
        rounds,
        check=lambda found: [
            f"{name}: the first loss must be {expected['pool']:.6f}; got {told['retrieval']:.6f}."
            for name, told in found.items()
            if abs(told["retrieval"] - expected["pool"]) > TOLERANCE * expected["pool"]
        ],
    )


def _steps(given: Mapping[str, Any], batch: int, steps: int, **changed: Any) -> dict[str, Any]:
    """Options of `mtrec_step`."""
    usual = {"what": "resident", "replicas": 1, "optimizer": "lazy_adam"}
    return {**usual, "batch": batch, "steps": steps, **given, **changed}


ROWS: dict[str, Callable[[Mapping[str, Any], Path, int, int], Iterator[Case]]] = {
    made.__name__: made for made in (step, tables, input, evaluation, quality, job, index, replicas)
}
