"""mtrec: the main job's training on MovieLens-100K until recall@10 of the test part is reached."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rounds import answer, options

from mtrec.libraries import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402

from mtrec.benchmark.model import device  # noqa: E402
from mtrec.jobs import build  # noqa: E402
from mtrec.jobs.composed import composed  # noqa: E402
from mtrec.jobs.load import load  # noqa: E402
from mtrec.training.ahead import made_ahead  # noqa: E402
from mtrec.training.evaluate import evaluator_of  # noqa: E402
from mtrec.training.packed import pack  # noqa: E402
from mtrec.training.step import Step  # noqa: E402


def main() -> None:
    """Plays rounds of one training each; to judge it takes no part of their time."""
    given = options()
    folder = Path(given["arrays"])
    with composed(["task=joint", "data.split.validation_share=0"], folder) as found:
        config: Any = OmegaConf.to_object(found)
    dataset, parts = load(config.data)
    dataset, fit = build.data(config, dataset), parts.train
    evaluator = evaluator_of("test", dataset, parts)
    names = ("user", "item", "rating")
    columns: dict[str, Any] = {name: np.asarray(dataset.interactions[name]) for name in names}
    np.savez(folder / "movielens.npz", train=fit, test=parts.test, **columns)

    def train() -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        model = build.model(config, dataset, fit)
        batches = build.batches(config, dataset, fit, model.heads, 1)
        count, at_once = batches.steps_per_epoch, config.train.steps_per_call
        balancer, optimizers = build.balancer(config, count), build.optimizers(config, count)
        step = Step(model, balancer, optimizers, tf.distribute.get_strategy())
        calls = [range(k, min(k + at_once, count)) for k in range(0, count, at_once)]
        spent, epoch, recall = np.zeros(2), 0, 0.0
        while recall < given["recall"] and epoch < config.train.epochs:
            epoch += 1

            def made(call: range, epoch: int = epoch) -> dict[int, Any]:
                return {0: pack([batches.step(epoch, k)[0] for k in call])}

            for _, each in made_ahead(made, calls):
                step(each)
            spent += [time.process_time() - cpu, time.perf_counter() - wall]
            recall = evaluator(model, full=False)["retrieval"].metrics["recall_at_10"]
            cpu, wall = time.process_time(), time.perf_counter()
        found = {"cpu": spent[0], "wall": spent[1], "recall_at_10": recall, "epochs": epoch}
        return {"units": 1, **found}

    answer(train, device=device())


main()
