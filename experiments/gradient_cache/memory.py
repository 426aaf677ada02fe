"""What gradient caching saves and costs: `python experiments/gradient_cache/memory.py [overrides]`.

Trains four steps of 2,048 users whose last 100 items a transformer reads, each setting in a process
of its own, and prints the peak memory that they add (tracing included) and the CPU seconds of the
fastest of them.
"""

import multiprocessing
import resource
import sys
import time

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtrec.config import conf_directory
from mtrec.jobs.schema import register
from mtrec.libraries import import_tensorflow, quiet_libraries

AT_ONCE = (None, 512, 128)
BATCH = (
    "data=synthetic",
    "data.num_users=4096",
    "data.num_items=2000",
    "data.num_interactions=600_000",
    "model/pooling=transformer",
    "model.pooling.length=100",
    "train.global_batch=2048",
)


def measure(at_once: int | None, overrides: list[str]) -> tuple[float, float]:
    """MiB that four steps add to the process' peak, and the CPU seconds of the fastest."""
    quiet_libraries()
    import_tensorflow()
    import tensorflow as tf

    from mtrec.jobs import build
    from mtrec.jobs.load import load
    from mtrec.training.packed import pack
    from mtrec.training.step import Step

    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*BATCH, *overrides]))
    dataset, parts = load(config.data)
    model = build.model(config, dataset, parts.fit)
    batches = build.batches(config, dataset, parts.fit, model.heads, 1)
    step = Step(
        model,
        build.balancer(config, batches.steps_per_epoch),
        build.optimizers(config, batches.steps_per_epoch),
        tf.distribute.get_strategy(),
        encode_at_once=at_once,
    )
    given = [{0: pack(batches.step(*divmod(2 + k, 2)))} for k in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for batch in given:
        started = time.process_time()
        step(batch)
        seconds.append(time.process_time() - started)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return added / 1024, min(seconds)


def main(overrides: list[str]) -> None:
    print("| train.encode_at_once | peak memory of a step, MiB | CPU s of the fastest step |")
    print("|---|---|---|")
    for at_once in AT_ONCE:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            added, seconds = alone.apply(measure, (at_once, overrides))
        print(f"| {at_once or 'null'} | {added:,.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
