"""Jobs run on the devices that were asked for, and say which."""

import os
from types import SimpleNamespace

import pytest
import tensorflow as tf
from silent import Silent
from small_config import SMALL, config_of
from tensorflow.python.framework.config import is_op_determinism_enabled

from mtrec.distributed import devices, strategy
from mtrec.distributed.precision import precision
from mtrec.errors import UserError
from mtrec.jobs import footprint, main_job, worker
from mtrec.jobs.cluster import driver, nodes, settings
from mtrec.jobs.load import load
from mtrec.libraries import import_tensorflow
from mtrec.tracking import run_dir


@pytest.fixture
def four_gpus(monkeypatch):
    """TensorFlow lists four GPUs that it has started already, and none may be changed."""

    def started(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    found = [SimpleNamespace(name=f"GPU {i}") for i in range(4)]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: found)
    monkeypatch.setattr(tf.config, "set_visible_devices", started)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", started)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)


@pytest.mark.parametrize(
    ("before", "gpus", "after"),
    [
        (None, 0, ""),
        ("4,5,6", 0, ""),
        (None, 2, "0,1"),
        ("4,5,6", 2, "4,5"),
        ("4,5,6", None, "4,5,6"),
        (None, None, None),
    ],
)
def test_tensorflow_sees_so_many_gpus_and_takes_memory_as_it_needs_it(
    monkeypatch, before, gpus, after
):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    outside = dict(os.environ)
    with devices.visible(gpus):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == after
        assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert dict(os.environ) == outside


@pytest.mark.parametrize(
    ("cluster", "gpus"),
    [
        ((), 0),
        (("cluster.use_gpu=true",), None),
        (("cluster.use_gpu=true", "cluster.devices_per_worker=2"), 2),
        (("cluster=ray_local",), 0),
        # Ray gives them to the workers, and counts those that its own processes see.
        (("cluster=ray_gpu", "cluster.devices_per_worker=2"), None),
    ],
)
def test_the_process_of_the_command_sees_the_gpus_that_its_cluster_names(cluster, gpus):
    assert main_job._gpus(config_of(*cluster).cluster) == gpus


@pytest.mark.parametrize(("use_gpu", "seen"), [(False, ""), (True, "3")])
def test_a_ray_worker_sees_the_gpus_that_ray_gave_it_if_they_were_asked_for(
    monkeypatch, tmp_path, use_gpu, seen
):
    found = {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    monkeypatch.setattr(driver, "ray", FakeRay())
    monkeypatch.setattr(driver, "_correspondent", lambda mailbox, rank: Silent())
    monkeypatch.setattr(driver, "_watched", lambda mailbox, rank, of: devices.visible(None))
    monkeypatch.setattr(worker, "train", lambda *_: found.update(os.environ) or [])
    config = config_of(*SMALL, "cluster=ray_local", f"cluster.use_gpu={use_gpu}")
    run_dir.save_config(config, tmp_path)
    job = {"config": config, "directory": tmp_path, "versions": nodes.versions()}
    driver._loop(job | {"data": None, "mailbox": None})
    assert found["CUDA_VISIBLE_DEVICES"] == seen


class FakeRay:
    """A Ray whose objects are two things, and whose worker is the first."""

    train = SimpleNamespace(
        get_context=lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    )

    def get(self, _):
        return None, None


def test_gpus_that_tensorflow_started_before_are_taken_as_they_are(four_gpus):
    assert strategy.make_strategy(None, use_gpu=True) == [f"GPU:{i}" for i in range(4)]
    assert strategy.make_strategy(2, use_gpu=True) == ["GPU:0", "GPU:1"]


def test_more_gpus_than_there_are_are_refused(four_gpus):
    with pytest.raises(UserError, match=r"at most the 4 GPUs .* got 5\. Lower it"):
        strategy.make_strategy(5, use_gpu=True)


def test_gpus_at_work_where_none_were_asked_for_are_refused(four_gpus):
    with pytest.raises(UserError, match="must be said before TensorFlow starts GPUs"):
        strategy.make_strategy(None, use_gpu=False)


def test_no_gpu_where_one_was_asked_for_is_refused_with_its_causes():
    with pytest.raises(UserError, match=r"sees none on .* CUDA's libraries are missing") as error:
        strategy.make_strategy(None, use_gpu=True)
    assert "`use_gpu`=false" in str(error.value)


def test_the_report_names_the_device_of_a_replica():
    one = strategy.make_strategy(None, use_gpu=False)
    expected = "worker 0: replica 0 on CPU:0; matrix products in float32"
    assert footprint.placement(one, "float32") == footprint.placement(one, "tf32") == expected


def test_the_report_names_every_gpu_and_its_kind(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["first", "second"])
    kinds = {"first": {"device_name": "NVIDIA L4"}, "second": {"device_name": "NVIDIA T4"}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", kinds.__getitem__)
    here = "/job:worker/replica:0/task:1/device:GPU:"
    resolver = SimpleNamespace(
        cluster_spec=lambda: tf.train.ClusterSpec({"worker": ["a:1", "b:1"]}), task_id=1
    )
    two = SimpleNamespace(
        num_replicas_in_sync=4,
        cluster_resolver=resolver,
        extended=SimpleNamespace(worker_devices=[f"{here}{i}" for i in (0, 1)]),
    )
    assert footprint.placement(two, "tf32") == (
        "worker 1: replica 2 on GPU:0 (NVIDIA L4, CUDA_VISIBLE_DEVICES=4,5), "
        "replica 3 on GPU:1 (NVIDIA T4, CUDA_VISIBLE_DEVICES=4,5); matrix products in tf32"
    )


def tf32():
    return tf.config.experimental.tensor_float_32_execution_enabled()


def test_tf32_is_off_unless_training_asks_for_it():
    tf.config.experimental.enable_tensor_float_32_execution(True)
    import_tensorflow()
    assert not tf32()
    with precision("tf32"):
        assert tf32()
    assert not tf32()
    with precision("float32"):
        assert not tf32()


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
def test_a_job_trains_in_the_precision_of_its_config(monkeypatch, tmp_path, name):
    found = []

    def fit(*_, **options):
        found.append(tf32())
        raise UserError("enough")

    monkeypatch.setattr(worker, "fit", fit)
    config = config_of(*SMALL, f"train.precision={name}")
    with pytest.raises(UserError, match="enough"):
        worker.train(config, *load(config.data), tmp_path, Silent())
    assert found == [name != "float32"]
    assert not tf32()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_job_trains_in_one_order_of_addition_if_its_config_says_so(
    monkeypatch, tmp_path, deterministic
):
    found = []

    def fit(*arguments, **options):
        found.append(is_op_determinism_enabled())
        original(*arguments, **options)
        raise UserError("enough")

    original = worker.fit
    monkeypatch.setattr(worker, "fit", fit)
    how = f"train.deterministic={deterministic}", "train.max_steps=1", "train.epochs=1"
    job = config_of(*SMALL, *how)
    with pytest.raises(UserError, match="enough"):  # and no operation is refused
        worker.train(job, *load(job.data), tmp_path, Silent())
    assert found == [deterministic]
    assert not is_op_determinism_enabled()


def test_another_precision_is_refused():
    with pytest.raises(
        UserError, match=r"train\.precision must be float32, tf32 or bfloat16; got half"
    ):
        config_of("train.precision=half")


@pytest.mark.parametrize(
    ("overrides", "there", "remedy"),
    [
        ((), {"CPU": 8}, "Ray knows of no GPU"),
        (("cluster.num_workers=4",), {"CPU": 8, "GPU": 2}, "or lower cluster.num_workers."),
        (
            ("cluster.devices_per_worker=4",),
            {"CPU": 8, "GPU": 2},
            "or lower cluster.num_workers or cluster.devices_per_worker.",
        ),
        (
            ("cluster.cpus_per_worker=9",),
            {"CPU": 8, "GPU": 2},
            "or lower cluster.num_workers or cluster.cpus_per_worker.",
        ),
    ],
)
def test_what_a_cluster_lacks_is_what_the_message_advises_to_lower(overrides, there, remedy):
    cluster = config_of("cluster=ray_gpu", *overrides).cluster
    assert remedy in settings.missing(cluster, there)
