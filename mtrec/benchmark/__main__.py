"""`python -m mtrec.benchmark`: mtrec beside what one would run instead, in one run."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from mtrec.benchmark.settings import BenchmarkConfig
from mtrec.errors import UserError
from mtrec.jobs.command import command

if TYPE_CHECKING:
    from mtrec.benchmark.contest import Case, Played


@command("benchmark", folder="benchmark")
def main(config: BenchmarkConfig) -> None:
    """Measures the rows that are asked for, and writes what was found after each case."""
    from mtrec.benchmark import results
    from mtrec.benchmark.rows import ROWS

    unknown = [row for row in config.rows if row not in ROWS]
    if unknown:
        raise UserError(f"rows must be of {', '.join(ROWS)}; got {', '.join(unknown)}.")
    folder = Path(HydraConfig.get().runtime.output_dir)
    found = results.load(folder)
    machine = results.machine()
    print(results.sentence(machine), flush=True)
    for row in config.rows:
        how = {"machine": machine, "size": config.size[row]}
        with tempfile.TemporaryDirectory(prefix="mtrec_benchmark_") as scratch:
            cases = ROWS[row](config.size[row], Path(scratch), config.seed, config.rounds)
            for case in (each.of(config.peers) for each in cases):
                print(f"\n{row}: {case.name}", flush=True)
                record = results.as_record(case, *_played(case, config), **how)
                print(results.table(record), flush=True)
                found[row] = results.replaced(found.get(row, []), record)
                results.save(found, folder)
    print(f"\nsee: {folder / results.TABLE}")


def _played(case: "Case", config: BenchmarkConfig) -> tuple[dict[str, "Played"], list[str]]:
    """What the contestants did, and what there is to say; nobody plays without the memory."""
    import psutil

    from mtrec.benchmark.contest import play
    from mtrec.benchmark.environments import python_of

    free = psutil.virtual_memory().available / 2**30
    if case.gib > config.memory_share * free:
        return {}, [
            f"Not run: it takes about {case.gib:.0f} GiB, and {free:.0f} GiB are free "
            f"(memory_share={config.memory_share:g})."
        ]
    pythons: dict[str, Path | UserError] = {}
    for peer in {one.peer for one in case.contestants if one.peer}:
        try:
            pythons[peer] = python_of(peer, config.peers[peer], Path(config.cache))
        except UserError as error:
            pythons[peer] = error
    return play(case, pythons)


if __name__ == "__main__":
    main()
