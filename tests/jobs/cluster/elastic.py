"""Nodes join and leave an elastic job, and workers are killed.

`python tests/jobs/cluster/elastic.py [events]` prints each, what of the training was repeated after
it, and how far the weights end from those of one process that nothing disturbed.
"""

import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jobs import Job

TESTS = Path(__file__).parents[2]
sys.path += [str(TESTS), str(TESTS / "distributed")]
MOST = 3
NOBODY_SECONDS = 5
ELASTIC = ("cluster=ray_address", f"cluster.num_workers=[1,{MOST}]", "cluster.resize_check_s=1")


def disturbed(cwd: Path, events: int, *overrides: str, seed: int = 0) -> Iterator[str]:
    """Runs an elastic job to its end; yields a line for each event that has happened to it.

    Raises:
        AssertionError: If more is repeated after one than lies between two checkpoints, or the job
            does not end well.
    """
    from ray.cluster_utils import Cluster

    rng = random.Random(seed)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1)]
    where = f"cluster.address={cluster.address}"
    job = Job(cwd, *ELASTIC, where, f"cluster.max_failures={events}", *overrides)
    try:
        for number in range(1, events + 1):
            assert job.follow(until=r"epoch +\d+/"), job.text
            kinds = ["a node joins"] * (len(nodes) < MOST)
            kind = rng.choice([*kinds, "a node is lost", "a worker is killed"])
            if kind == "a node joins":
                nodes.append(cluster.add_node(num_cpus=1))
            elif kind == "a node is lost":
                cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
                if not nodes:  # the job waits
                    time.sleep(NOBODY_SECONDS)
                    nodes.append(cluster.add_node(num_cpus=1))
            else:
                job.kill(f"worker {rng.randrange(len(nodes))}")
            before = len(job.text)
            assert job.follow(until="going on from a checkpoint"), job.text[before:]
            repeated = _repeated(job.text)
            assert repeated <= 1, job.text  # a checkpoint follows each epoch
            yield f"{number}. {kind}: {len(nodes)} workers, {repeated} epochs repeated"
        assert job.end() == 0, job.text
    finally:
        job.process.kill()
        cluster.shutdown()


def _repeated(text: str) -> int:
    """Epochs that were told of before the last start and are trained again."""
    before, _, after = text.rpartition("going on from a checkpoint: ")
    done = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)/", before, re.MULTILINE)]
    return max(done) - int(after.split()[0])


def largest_difference(one: Path, other: Path) -> tuple[float, str]:
    """Of all variables and metrics that two run directories end with, and of which."""
    import layouts

    return layouts.largest_difference(layouts.left_in(one), layouts.left_in(other))


def main(events: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disturbed_in, alone = Path(folder) / "disturbed", Path(folder) / "alone"
        for cwd in (disturbed_in, alone):
            cwd.mkdir()
        epochs = f"train.epochs={20 * events}"
        for line in disturbed(disturbed_in, events, epochs):
            print(line, flush=True)
        job = Job(alone, epochs)
        assert job.end() == 0, job.text
        difference, name = largest_difference(disturbed_in / "run", alone / "run")
        print(f"{difference:.1e} from an undisturbed process, in {name}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 50)
