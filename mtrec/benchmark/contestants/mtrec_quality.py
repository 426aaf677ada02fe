"""mtrec: training on MovieLens-100K until recall@10 of the test part is reached."""

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
from mtrec.data.inputs import stack  # noqa: E402
from mtrec.jobs import build  # noqa: E402
from mtrec.jobs.composed import composed  # noqa: E402
from mtrec.jobs.load import load  # noqa: E402
from mtrec.training.ahead import made_ahead  # noqa: E402
from mtrec.training.evaluate import evaluator_of  # noqa: E402
from mtrec.training.step import Step  # noqa: E402


def main() -> None:
    """Plays rounds of one training each, of which judging it takes no part."""
    given = options()
    with composed(["data.split.validation_share=0.05"], Path(given["arrays"])) as found:
        config: Any = OmegaConf.to_object(found)
    dataset, parts = load(config.data)
    dataset = build.data(config, dataset)
    evaluator = evaluator_of("test", dataset, parts)
    rows = parts.train
    columns: dict[str, Any] = {n: dataset.interactions[n] for n in ("user", "item", "rating")}
    written = Path(given["arrays"]) / "movielens.npz"
    np.savez(written, train=rows, test=parts.test, **columns)

    def train() -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        model = build.model(config, dataset, rows)
        batches = build.batches(config, dataset, rows, model.heads, 1)
        balancer = build.balancer(config, batches.steps_per_epoch)
        optimizers = build.optimizers(config, batches.steps_per_epoch)
        step = Step(model, balancer, optimizers, tf.distribute.get_strategy())
        count = batches.steps_per_epoch
        calls = [range(k, min(k + 4, count)) for k in range(0, count, 4)]
        spent = np.zeros(2)
        for epoch in range(1, config.train.epochs + 1):

            def made(call: range, epoch: int = epoch) -> dict[int, Any]:
                return {0: stack([batches.step(epoch, k)[0] for k in call])}

            for _, each in made_ahead(made, calls):
                step(each)
            spent += [time.process_time() - cpu, time.perf_counter() - wall]
            recall = evaluator(model, full=False)["retrieval"].metrics["recall_at_10"]
            if recall >= given["recall"] or epoch >= given["epochs"]:
                break
            cpu, wall = time.process_time(), time.perf_counter()
        found = {"cpu": spent[0], "wall": spent[1], "recall_at_10": recall, "epochs": epoch}
        return {"units": 1, **found}

    answer(train, device=device())


main()
