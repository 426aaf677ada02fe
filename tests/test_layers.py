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


def imports() -> list[tuple[str, str, str]]:
    """File, its room, and the room of each import of mtrec in it, wherever it stands."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "mtrec":
                modules = [f"mtrec.{a.name}" for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            rooms = [m.split(".")[1] for m in modules if m.startswith("mtrec.")]
            found += [(str(path.relative_to(PACKAGE)), room_of(path), room) for room in rooms]
    return found


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
    found = imports()
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
