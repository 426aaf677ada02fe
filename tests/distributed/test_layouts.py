"""The same model on any layout of workers and devices."""

import shutil

import pytest
from layouts import LAYOUTS, bytes_on_each_device, largest_difference, train, train_all

from mtrec.config import conf_directory

METHODS = sorted({path.stem for path in (conf_directory() / "balance").iterdir()} - {"fixed"})
NEGATIVES = "task.heads.retrieval.negatives"
PLACED = "model.table_placement={}"
PLACEMENTS = ("replicated", "sharded")
SHARDED = PLACED.format("sharded")
STOPS = ("train.checkpoint_every=4",)
SOFTMAX = ("head@task.heads.retrieval=softmax", "train.batch_of=rows", "train.global_batch=64")


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one"), workers=1, devices=1)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Where two workers of two devices trained and what they left, by where their tables lay."""
    places = {placement: tmp_path_factory.mktemp(placement) for placement in PLACEMENTS}
    jobs = [(place, [*STOPS, PLACED.format(placement)]) for placement, place in places.items()]
    left = train_all(jobs, workers=2, devices=2)
    return dict(zip(places, zip(places.values(), left, strict=True), strict=True))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_two_workers_of_two_devices_end_like_one_replica(one_replica, two_workers, placement):
    _, left = two_workers[placement]
    difference, name = largest_difference(one_replica, left)
    assert difference <= 1e-5, name


def test_softmax_projected_gradients_and_sharded_tables_end_alike_on_two_replicas(tmp_path):
    overrides = (*SOFTMAX, "balance=pcgrad")
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=[*overrides, SHARDED])
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


def test_three_replicas_that_share_batches_of_sixteen_end_like_one(one_replica, tmp_path):
    # 6, 6 and 4 queries, of the short last batches 6, 2 and none: only an elastic job may.
    elastic = ["cluster=ray_local", "cluster.num_workers=[1,3]"]
    found = train(tmp_path, workers=1, devices=3, overrides=elastic)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), [(1, 2), (1, 4)])
def test_twenty_steps_do_not_depend_on_the_layout(one_replica, tmp_path, workers, devices):
    found = train(tmp_path, workers=workers, devices=devices)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


def test_another_seed_gives_another_model(one_replica, tmp_path):
    found = train(tmp_path, workers=1, devices=1, overrides=["seed=43"])
    difference, _ = largest_difference(one_replica, found)
    assert difference > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (*SOFTMAX, f"{NEGATIVES}.uniform=40", f"{NEGATIVES}.past_batches=2"),
        # Three epochs of users in 20 steps.
        ("head@task.heads.retrieval=softmax", f"{NEGATIVES}.mined=5"),
        (*SOFTMAX, "task.heads.retrieval.loss.log_q_correction=negatives"),
        (*SOFTMAX, "task.heads.retrieval.loss.hardest=10"),
        (*SOFTMAX, "task.heads.retrieval.loss.same_tower=true"),
        (*SOFTMAX, f"{NEGATIVES}.uniform=40", f"{NEGATIVES}.log_q_rate=0.1"),
        (*SOFTMAX, "task.heads.retrieval.query_vectors=3"),
        (*SOFTMAX, "train.encode_at_once=5"),
        ("head@task.heads.retrieval=bpr", f"{NEGATIVES}.uniform=40"),
        ("head@task.heads.retrieval=hinge", "task.heads.retrieval.loss.hardest=5"),
    ],
)
def test_every_kind_of_negatives_and_loss_is_trained_alike(tmp_path, overrides):
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
def test_local_negatives_make_another_model_of_two_replicas(tmp_path):
    overrides = (*SOFTMAX, f"{NEGATIVES}.local=true")
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    difference, _ = largest_difference(one, two)
    assert difference > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), [(1, 2), (1, 4), (2, 1), (2, 2)])
def test_negatives_come_from_all_replicas(tmp_path, workers, devices):
    one = train(tmp_path / "one", workers=1, devices=1, overrides=SOFTMAX)
    found = train(tmp_path / "many", workers=workers, devices=devices, overrides=SOFTMAX)
    difference, name = largest_difference(one, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("balance", METHODS)
def test_every_balancing_method_takes_the_same_steps_on_two_replicas(tmp_path, balance):
    overrides = [f"balance={balance}", "train.telemetry_every=5"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["mmoe", "ple", "stem"])
def test_every_scheme_of_sharing_is_trained_alike(tmp_path, sharing):
    overrides = [f"model/sharing={sharing}"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    assert any("/gate/" in name for name in one)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["attention", "transformer"])
def test_every_pooling_and_dropped_ids_are_trained_alike(tmp_path, pooling):
    ids = "{_target_: mtrec.Categorical, column: user_id, dropout: 0.5}"
    overrides = [f"model/pooling={pooling}", f"+data.features.query.shared.user_id={ids}"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [
        (),
        ("model/sharing=ple", "balance=pcgrad", "task.heads.similar.dim=16"),
        ("model/sharing=stem", "balance=famo", SHARDED),
    ],
)
def test_views_of_items_are_compared_alike_on_every_layout(tmp_path, others):
    bins = "{_target_: mtrec.Hashed, column: item_id, bins: 7}"
    overrides = (
        "+head@task.heads.similar=contrastive",
        "+task.weights.similar=0.1",
        "task.heads.similar.items=30",
        f"+data.features.candidate.shared.bin={bins}",
        *others,
    )
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    for workers, devices in ((1, 4), (2, 1)):
        directory = tmp_path / f"{workers}x{devices}"
        found = train(directory, workers=workers, devices=devices, overrides=overrides)
        difference, name = largest_difference(one, found)
        assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_moving_biases_and_cross_layers_are_trained_alike(tmp_path, placement):
    head = "task.heads.rating"
    overrides = [f"{head}.moving_biases=5", f"{head}.cross=2"]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    overrides.append(f"model.table_placement={placement}")
    two = train(tmp_path / "two", workers=1, devices=2, overrides=overrides)
    assert any(value.shape == (61 * 5, 1) and value.any() for value in one.values())
    difference, name = largest_difference(one, two)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_bags_of_which_replicas_look_up_other_numbers_are_trained_alike(tmp_path, placement):
    genres = "{_target_: mtrec.Categorical, column: item_genres}"
    words = "{_target_: mtrec.Text, column: item_title, max_words: 3, min_count: 1}"
    overrides = [
        f"+data.features.candidate.shared.genres={genres}",
        f"+data.features.candidate.rating.words={words}",
        *SOFTMAX,
    ]
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    overrides.append(f"model.table_placement={placement}")
    for workers, devices in ((1, 2), (2, 1)):
        directory = tmp_path / f"{workers}x{devices}"
        found = train(directory, workers=workers, devices=devices, overrides=overrides)
        difference, name = largest_difference(one, found)
        assert difference <= 1e-5, name


def cut_within_an_epoch(directory):
    """Leaves a job of `STOPS` as if it had been killed within an epoch."""
    steps = sorted((directory / "checkpoints").glob("step-*"))
    assert int(steps[-2].name.removeprefix("step-")) % 7
    for path in steps[-1].iterdir():
        path.unlink()
    steps[-1].rmdir()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_checkpoint_of_two_workers_goes_on_in_one_process_with_whole_tables(
    one_replica, two_workers, tmp_path, placement
):
    place, _ = two_workers[placement]
    directory = shutil.copytree(place, tmp_path / "run")
    cut_within_an_epoch(directory)
    found = train(directory, workers=1, devices=1, overrides=STOPS)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), LAYOUTS[:3])
def test_sharded_tables_end_like_whole_ones(one_replica, tmp_path, workers, devices):
    found = train(tmp_path, workers=workers, devices=devices, overrides=[SHARDED])
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), LAYOUTS)
def test_sharded_tables_end_like_whole_ones_with_adagrad_and_rows(tmp_path, workers, devices):
    overrides = ("optimizer=rowwise_adagrad", *SOFTMAX)
    one = train(tmp_path / "one", workers=1, devices=1, overrides=overrides)
    many = tmp_path / "many"
    found = train(many, workers=workers, devices=devices, overrides=[*overrides, SHARDED])
    difference, name = largest_difference(one, found)
    assert difference <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [(((1, 1), "replicated"), ((2, 1), "sharded")), (((2, 2), "sharded"), ((1, 2), "sharded"))],
)
def test_a_checkpoint_goes_on_with_another_placement(one_replica, tmp_path, first, then):
    def trained(layout, placement):
        overrides = [*STOPS, PLACED.format(placement)]
        return train(tmp_path, workers=layout[0], devices=layout[1], overrides=overrides)

    trained(*first)
    cut_within_an_epoch(tmp_path)
    found = trained(*then)
    difference, name = largest_difference(one_replica, found)
    assert difference <= 1e-5, name


@pytest.fixture(scope="module")
def held():
    """Bytes on each of four devices: of both placements with both optimizers, then of `ABOVE`."""
    placements = [PLACED.format(placement) for placement in PLACEMENTS]
    optimizers = [f"optimizer={name}" for name in ("lazy_adam", "rowwise_adagrad")]
    return bytes_on_each_device(4, *([p, o] for o in optimizers for p in placements), *ABOVE)


def test_four_replicas_hold_a_quarter_of_the_tables_and_their_slots_each(held):
    for replicated, sharded in (held[:2], held[2:4]):
        assert len(sharded) == 4
        assert max(sharded) <= 0.26 * min(replicated)


# Either side of the largest table's 256,255 bytes and one.
ABOVE = [
    [
        "optimizer=rowwise_adagrad",
        f"model.shard_above_mib={size / 2**20}",
        *("task.heads.rating.members=1", "~data.features.query.rating.rated"),
    ]
    for size in (256_255, 256_256)
]


def test_auto_shards_the_tables_above_a_size(held):
    # The largest table has 1,001 rows of 64 numbers: 256,256 bytes. With an accumulator a row, a
    # quarter of it is 251 rows of 260 bytes. The others: 2,001 x (16 + 1) and 1,001 x (16 + 1)
    # numbers, and 2 x 2,001 + 2 x 1,001 accumulators. The optimizer counts steps in 8 bytes.
    others = 4 * (3_002 * 17 + 6_004) + 8
    assert held[4:] == [[largest + others] * 4 for largest in (251 * 260, 1_001 * 260)]
