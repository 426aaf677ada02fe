"""Heavy libraries have one door each, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mtrec"
# `mlflow_model.py` is the file that MLflow itself runs, without mtrec beside it.
DOORS = {
    "ray": {"jobs/cluster/driver.py"},
    "mlflow": {
        "tracking/mlflow_client.py",
        "tracking/mlflow_run.py",
        "serving/mlflow_model.py",
    },
    "scann": {"serving/tree.py", "serving/mlflow_model.py"},
    "duckdb": {"data/sorted_log.py"},
}


def importers(library: str) -> set[str]:
    """Files of the package that import a library, wherever in the file."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            roots = {name.split(".")[0] for name in names}
            if library in roots and not _for_types_only(path, node):
                found.add(str(path.relative_to(PACKAGE)))
    return found


def _for_types_only(path: Path, node: ast.AST) -> bool:
    blocks = [
        block
        for block in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
    ]
    return any(b.lineno <= node.lineno <= (b.end_lineno or 0) for b in blocks)


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_one_door(library: str) -> None:
    assert importers(library) == DOORS[library]


def test_importing_the_package_and_its_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, mtrec\n"
        "for name in ('launch', 'prepare', 'recommend', 'compare', 'doctor'):\n"
        "    __import__(f'mtrec.{name}')\n"
        "heavy = {'tensorflow', 'keras', 'ray', 'mlflow', 'scann', 'duckdb'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_drives_other_workers_is_loaded_without_tensorflow() -> None:
    modules = (
        "jobs.cluster.driver, jobs.progress, jobs.resume, tracking.run_dir, tracking.mlflow_run, "
        "jobs.load, data.movielens"
    )
    code = (
        f"import sys\nfor name in {modules!r}.split(', '): __import__('mtrec.' + name)\n"
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'scann'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_keras_comes_without_what_it_would_import_along() -> None:
    code = (
        "import sys\nfrom mtrec.libraries import import_tensorflow\nimport_tensorflow()\n"
        "print(sorted({'keras', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
        "import sklearn, matplotlib.pyplot"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['keras']"


def test_the_public_names_are_where_the_package_says() -> None:
    code = "import mtrec\nfor name in mtrec.__all__:\n    assert getattr(mtrec, name), name"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
