"""mtrec: the main job as a command, and the seconds that it says its stages took."""

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from rounds import answer, options

_STAGE = re.compile(r"^(?P<name>[^:\n]+): (?P<seconds>[\d.]+) s\b.*, peak ", re.M)


def main() -> None:
    """Plays rounds of one job each."""
    given = options()
    folder = Path(given["arrays"])

    def job() -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        where = [f"hydra.run.dir={folder / 'run'}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        command = [sys.executable, "-m", "mtrec.launch", *given["overrides"], *where]
        done = subprocess.run(
            [*command, "train.resume=never"], capture_output=True, text=True, check=True, cwd=folder
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        stages = {found["name"]: float(found["seconds"]) for found in _STAGE.finditer(done.stdout)}
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"units": 1, "cpu": cpu, "stages": stages}

    answer(job, device="GPU" if "use_gpu=true" in " ".join(given["overrides"]) else "CPU")


main()
