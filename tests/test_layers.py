"""Which package may import which: the plan of the house."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mtrec"
COMMANDS = {"benchmark", "launch", "prepare", "recommend", "compare", "doctor"}
LAYERS = (
    {"errors", "libraries"},
    {"data", "distributed"},
    {"config", "heads"},
    {"model", "tracking"},
    {"reports", "serving", "training"},
    {"jobs"},
    COMMANDS,
)
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
# What a notebook uses without Hydra.
WITHOUT_CONFIG = {"data", "distributed", "heads", "model", "training", "serving"}

MOST_ENTRIES = 18
MOST_PACKAGES = 10
MOST_FLOORS = 7
MOST_ARROWS = 66
LEAST_INSIDE = 0.38  # of all imports of mtrec
LONGEST_FILE = 400
LONGEST_FUNCTION = 60  # without its docstring


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_in(text: str, package: str, face: str = "jobs") -> list[str]:
    """The room of each import of mtrec in a file of a package, wherever it stands.

    Whoever imports `mtrec` itself, or by a name worked out at run time, may reach the topmost room,
    `face`.
    """
    modules = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            within = package.split(".")[: len(package.split(".")) - node.level + 1]
            around = [*within, node.module] if node.level else [node.module]
            module = ".".join(filter(None, around))
            modules += [f"mtrec.{n.name}" for n in node.names] if module == "mtrec" else [module]
        elif isinstance(node, ast.Name | ast.Attribute):
            called = node.id if isinstance(node, ast.Name) else node.attr
            modules += ["mtrec"] if called in ("import_module", "__import__") else []
    named = [module.split(".") for module in modules if module.split(".")[0] == "mtrec"]
    rooms = [module[1] if len(module) > 1 else face for module in named]
    return [room if room in LAYER else face for room in rooms]


def imports(face: str = "jobs") -> list[tuple[str, str, str]]:
    """File, its room, and the room of each import of mtrec in it."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path in (PACKAGE / "__init__.py", PACKAGE / "__main__.py"):
            continue
        file = path.relative_to(PACKAGE)
        package = ".".join(["mtrec", *file.parent.parts])
        rooms = rooms_in(path.read_text("utf-8"), package, face)
        found += [(str(file), room_of(path), room) for room in rooms]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "from mtrec.jobs import build",
        "from mtrec import fit",
        "import mtrec.jobs.build",
        "import mtrec",
        "if TYPE_CHECKING:\n    from mtrec.jobs.build import model",
        "def late():\n    from mtrec.jobs import build",
        "from ..jobs import build",
        "from .. import jobs",
        "import_module(name)",
    ],
)
def test_an_import_that_goes_up_is_noticed_however_it_is_written(line: str) -> None:
    assert rooms_in(line, "mtrec.model") == ["jobs"]


def test_an_import_from_beside_stays_in_its_package() -> None:
    text = "from . import tower\nfrom .tower import Tower\nimport tensorflow\nfrom numpy import pi"
    assert rooms_in(text, "mtrec.model") == ["model", "model"]


def test_every_room_has_a_layer() -> None:
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("_")}
    assert rooms - {"conf"} == set(LAYER)


def test_the_map_in_the_docs_is_the_plan() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    drawn = [line.split() for line in text.split("```text\n")[1].split("```")[0].splitlines()]
    for (number, *words), (layer, rooms) in zip(
        drawn, reversed(list(enumerate(LAYERS))), strict=True
    ):
        assert int(number) == layer
        assert set(words[: len(rooms)]) == rooms


def test_imports_stay_in_their_package_or_go_down() -> None:
    up = [
        f"{path} imports {room}"
        for path, own, room in imports()
        if room != own and LAYER[room] >= LAYER[own]
    ]
    assert up == []


@pytest.mark.parametrize("room", sorted(WITHOUT_CONFIG))
def test_a_library_room_does_not_know_the_config(room: str) -> None:
    assert [path for path, own, target in imports() if own == room and target == "config"] == []


def test_no_package_imports_by_its_face() -> None:
    faces = [p / "__init__.py" for p in PACKAGE.iterdir() if p.is_dir() and p.name != "conf"]
    for face in faces:
        if face.parent.name.startswith("_"):
            continue
        tree = ast.parse(face.read_text("utf-8"))
        assert ast.get_docstring(tree), face
        assert len(tree.body) == 1, f"{face} imports something: imports would no longer be lazy"


def test_the_house_stays_small() -> None:
    packages = [room for room in LAYER if (PACKAGE / room).is_dir()]
    # What goes by the public names is no part of how modules hang together.
    found = [(file, own, room) for file, own, room in imports(face="") if room]
    arrows = {(own, room) for _, own, room in found if own != room}
    inside = sum(own == room for _, own, room in found) / len(found)
    print(
        f"{len(LAYER)} entries, {len(packages)} packages, {len(LAYERS)} floors, {len(arrows)} "
        f"arrows; {inside:.1%} of {len(found)} imports stay inside a package"
    )
    assert len(LAYER) <= MOST_ENTRIES
    assert len(packages) <= MOST_PACKAGES
    assert len(LAYERS) <= MOST_FLOORS
    assert len(arrows) <= MOST_ARROWS
    assert inside >= LEAST_INSIDE


def test_files_and_functions_stay_short() -> None:
    files, functions = {}, {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        files[str(path.relative_to(PACKAGE))] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                where = f"{path.relative_to(PACKAGE)}:{node.name}"
                said = ast.get_docstring(node, clean=False)
                lines = node.end_lineno - node.lineno + 1
                functions[where] = lines - (len(said.splitlines()) if said else 0)
    for kind in (files, functions):
        print(sorted(kind.items(), key=lambda item: -item[1])[:8])
    print(sum(files.values()), "lines")
    assert {name: lines for name, lines in files.items() if lines > LONGEST_FILE} == {}
    assert {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION} == {}
