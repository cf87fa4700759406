"""The package holds to its layers, and to the house style where a machine can tell."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ablate"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
# From top to bottom. A package imports only from packages on lower floors.
FLOORS = [
    ["cli"],
    ["finders"],
    ["lab", "bench"],
    ["units"],
    ["engine"],
    ["training"],
    ["sweep"],
    ["recipe", "view"],
    ["sampling", "drift"],
    ["models"],
    ["edits"],
    ["store"],
    ["network"],
    ["style"],
    ["messages", "bundled"],
]
FLOOR = {package: number for number, floor in enumerate(reversed(FLOORS)) for package in floor}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Modules whose names are imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def ours(tree: ast.AST) -> set[str]:
    """The packages of the lab that a file imports."""
    names = {name for name in imports(tree) if name.startswith("ablate.")}
    return {part for name in names if (part := name.split(".")[1]) in FLOOR}


def package_of(name: str) -> str:
    return name.partition(".")[0]


def libraries(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


def test_every_package_has_its_floor() -> None:
    assert {package_of(name) for name in FILES} - {"__init__", "__main__"} == FLOOR.keys()


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("__")])
def test_imports_point_down(name: str) -> None:
    package = package_of(name)
    others = ours(TREES[name]) - {package}
    assert {other for other in others if FLOOR[other] >= FLOOR[package]} == set()


@pytest.mark.parametrize("name", FILES)
def test_packages_are_entered_by_their_doors(name: str) -> None:
    modules = {module for module in imported_modules(TREES[name]) if module.startswith("ablate.")}
    inside = {module for module in modules if module.count(".") > 1}
    homes = {module for module in inside if module.split(".")[1] != package_of(name)}
    # `__main__` runs the command.
    assert homes - {"ablate.cli.main", "ablate.cli.process"} == set()


@pytest.mark.parametrize("package", [path.parent for path in PACKAGE.glob("*/__init__.pyi")])
def test_no_door_offers_the_name_of_a_room(package: Path) -> None:
    stub = ast.parse((package / "__init__.pyi").read_text(encoding="utf-8"))
    offered = {a.asname for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert offered & rooms == set()
    assert offered & (FLOOR.keys() | {"ablate"}) == set()


@pytest.mark.parametrize("name", FILES)
def test_an_import_inside_a_function_says_why(name: str) -> None:
    """Imports are at the top of files, except of libraries that are lazy on purpose."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef)]
    inside = {
        node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert [lines[number - 1] for number in sorted(inside) if "  # " not in lines[number - 1]] == []


def test_no_package_has_the_name_of_a_public_function() -> None:
    public = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    offered = {
        alias.asname
        for node in ast.parse(public).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert offered & FLOOR.keys() == set()


def test_the_bundled_model_stands_alone() -> None:
    tree = ast.parse((PACKAGE / "bundled" / "__init__.py").read_text(encoding="utf-8"))
    assert libraries(tree) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        # The benchmark is also the script that a user of diffusers would write.
        ("diffusers", ["bench", "models", "sampling"]),
        ("transformers", ["drift", "models"]),
        ("accelerate", ["engine", "models"]),
    ],
)
def test_heavy_libraries_have_boundaries(library: str, homes: list[str]) -> None:
    users = {package_of(name) for name, tree in TREES.items() if library in libraries(tree)}
    assert sorted(users - {"training"}) == homes


@pytest.mark.parametrize(
    "module",
    [
        "cli.main", "drift.classes", "drift.measure",
        *(name for name in FILES if package_of(name) in ("view", "store", "style", "messages")),
    ],
)  # fmt: skip
def test_presentation_needs_no_torch(module: str) -> None:
    program = f"import sys, ablate.{module}; print('torch' in sys.modules)"
    assert python("-c", program) == "False"


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom ablate.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    )
    assert python("-c", program).splitlines()[-1] == "set()"


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", FILES)
def test_what_is_public_has_a_docstring(name: str) -> None:
    assert ast.get_docstring(TREES[name])
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in TREES[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_files_are_short_and_named_for_what_they_hold() -> None:
    lengths = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > 500} == {}
    rooms = {part for name in FILES for part in name.split(".")}
    assert not {"utils", "helpers", "common", "misc"} & rooms
