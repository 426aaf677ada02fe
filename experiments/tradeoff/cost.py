"""What balancing and telemetry cost: `python experiments/tradeoff/cost.py [overrides]`.

Prints CPU seconds of a step over those of fixed weights, methods taking turns within one process:
the median over rounds. Then what an observed step costs, and the peak memory of a process that
trains with a table of a million rows under fixed weights and under PCGrad.
"""

import multiprocessing
import resource
import sys
import time
from statistics import median

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtrec.config import Config, conf_directory
from mtrec.jobs.schema import register
from mtrec.libraries import import_tensorflow, quiet_libraries

METHODS = sorted(path.stem for path in (conf_directory() / "balance").iterdir())
ROUNDS, STEPS = 15, 8
LARGE_TABLE = (
    "data=synthetic",
    "data.num_users=1_000_000",
    "data.num_items=2000",
    "data.num_interactions=2_000_000",
    "+data.features.query.shared.user_id._target_=mtrec.Categorical",
    "+data.features.query.shared.user_id.column=user_id",
)


def config_of(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        return OmegaConf.to_object(compose("config", list(overrides)))


class Training:
    """A step and the batches that it takes in turn."""

    def __init__(self, config: Config) -> None:
        import tensorflow as tf

        from mtrec.jobs import build
        from mtrec.jobs.load import load
        from mtrec.training.step import Step

        dataset, parts = load(config.data)
        model = build.model(config, dataset, parts.fit)
        self.batches = build.batches(config, dataset, parts.fit, model.heads, 1)
        per_epoch = self.batches.steps_per_epoch
        balancer, optimizers = (
            build.balancer(config, per_epoch),
            build.optimizers(config, per_epoch),
        )
        self.step = Step(model, balancer, optimizers, tf.distribute.get_strategy())
        self.taken = 0

    def cpu_seconds(self, steps: int, *, observe: bool = False) -> float:
        """Takes steps in one call, or one observed step; making the batches does not count."""
        from mtrec.training.packed import pack

        batches = []
        for _ in range(1 if observe else steps):
            epoch, k = divmod(self.taken, self.batches.steps_per_epoch)
            batches.append(self.batches.step(epoch + 1, k)[0])
            self.taken += 1
        replicas = {0: pack(batches)}
        started = time.process_time()
        self.step(replicas, observe=observe)
        return time.process_time() - started


def step_costs(overrides: list[str]) -> None:
    trainings = {m: Training(config_of(f"balance={m}", *overrides)) for m in METHODS}
    for training in trainings.values():  # traces
        training.cpu_seconds(STEPS)
        training.cpu_seconds(1, observe=True)
    seconds = {method: [] for method in METHODS}
    observed = []
    for _ in range(ROUNDS):
        for method, training in trainings.items():
            seconds[method].append(training.cpu_seconds(STEPS) / STEPS)
        observed.append(trainings["fixed"].cpu_seconds(1, observe=True))
    fixed = seconds["fixed"]
    print(f"a step under fixed weights: {1000 * median(fixed):.1f} CPU ms")
    for method in METHODS:
        ratio = median(a / b for a, b in zip(seconds[method], fixed, strict=True))
        print(f"{method:12} {ratio:.3f} of fixed")
    extra = median(a / b for a, b in zip(observed, fixed, strict=True)) - 1
    print(f"telemetry every 50 steps: {100 * extra / 50:.2f} % of training time")


def peak_mib(balance: str) -> float:
    quiet_libraries()
    import_tensorflow()
    training = Training(config_of(*LARGE_TABLE, f"balance={balance}"))
    training.cpu_seconds(STEPS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_memory() -> None:
    spawn = multiprocessing.get_context("spawn")
    peaks = {}
    for balance in ("fixed", "pcgrad"):
        with spawn.Pool(1) as pool:
            peaks[balance] = pool.apply(peak_mib, (balance,))
    fixed, pcgrad = peaks.values()
    print(
        f"peak memory with 1,000,000 rows: fixed {fixed:,.0f} MiB, pcgrad {pcgrad:,.0f} MiB, "
        f"{pcgrad / fixed:.3f}"
    )


if __name__ == "__main__":
    quiet_libraries()
    import_tensorflow()
    step_costs(sys.argv[1:])
    peak_memory()
