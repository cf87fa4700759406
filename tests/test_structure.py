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
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted(
        [*PACKAGE.glob("*.py"), *PACKAGE.glob("pictures/*.py"), *PACKAGE.glob("units/*.py")]
    )
}
FOLDERS = ("pictures", "units")
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
BELOW = [
    "ops", "code", "modules", "catalog", "inputs", "skeletons", "scope", "document", "embeddings",
    "spaces", "axes", "specs", "references", "recipe", "schema", "rowmap", "outputs", "edits",
    "rows", "sweep", "plan", "store", "models", "weights", "estimates", "sampling", "pipeline",
    "batches", "lettering", "phases", "processes", "engine", "metrics", "effects", "looks",
    "drift", "classes", "concepts", "page", "sheets", "report", "replay", "export", "matching",
    "compare", "sources", "loading", "articles", "sizes",
]  # fmt: skip
# What pictures are drawn from: a run's folder and what was measured of it.
PICTURED = ["modules", "store", "drift", "page"]
DRAWN = [f"pictures.{n}" for n in ("svg", "architecture", "maps", "curves", "animations")]

# What studies of units are made of, and what commands call of them.
STUDIED = [
    "store",
    *(
        f"units.{name}"
        for name in (
            "clock",
            "layers",
            "recording",
            "statistics",
            "stimuli",
            "study",
        )
    ),
]
STUDIES = (
    "atlas", "cards", "expressions", "gallery", "layout", "objectives", "search", "selectivity",
    "vectors", "wanted",
)  # fmt: skip

# What each file may import of the package. "ablate": the package itself, for its version.
LAYERS: dict[str, list[str]] = {
    "__init__": [*BELOW, "lab"],
    "__main__": ["cli"],
    "ops": [],
    "modules": [],
    "catalog": ["modules", "scope"],
    "store": ["modules"],
    "page": [],
    "embeddings": [],
    "articles": [],
    "sizes": ["articles", "scope"],
    "code": ["ops"],
    "scope": [],
    "inputs": ["articles"],
    "skeletons": ["articles", "catalog", "inputs", "modules"],
    "document": ["catalog"],
    "spaces": ["catalog", "document", "embeddings"],
    "axes": ["catalog", "document", "scope", "spaces"],
    "specs": ["axes", "catalog", "document", "lettering", "ops", "scope", "spaces"],
    "recipe": ["code", "catalog", "document", "axes", "references", "sources", "specs"],
    "references": ["axes", "catalog", "document", "ops", "scope", "spaces", "specs"],
    "schema": ["ops", "axes", "embeddings", "recipe", "scope", "sources", "spaces", "specs"],
    "rowmap": [],
    "outputs": ["ops", "rowmap", "scope"],
    "edits": ["ops", "catalog", "outputs", "rowmap", "scope"],
    "rows": ["edits", "outputs", "rowmap", "scope"],
    "sweep": [
        "axes", "catalog", "document", "embeddings", "modules", "recipe", "scope", "spaces",
        "specs", "units.statistics",
    ],
    "plan": [
        "axes", "catalog", "document", "edits", "embeddings", "modules", "ops", "recipe", "scope",
        "spaces", "specs", "sweep",
    ],
    "models": ["catalog", "modules", "scope", "skeletons", "sources", "bundled", "ablate"],
    "sources": [],
    "loading": ["articles", "models", "scope", "sources", "bundled"],
    "weights": ["loading", "models", "sources"],
    "estimates": [],
    "sampling": ["articles", "embeddings", "estimates", "scope"],
    "pipeline": [
        "articles", "catalog", "loading", "modules", "models", "sampling", "scope", "sizes",
        "sources", "weights",
    ],
    "batches": ["catalog", "edits", "pipeline", "plan", "scope"],
    "processes": [],
    "lettering": ["page"],
    "phases": [
        "batches", "edits", "lettering", "ops", "pipeline", "rowmap", "rows", "sampling", "scope",
    ],
    "engine": [
        "plan", "edits", "rows", "rowmap", "scope", "models", "modules", "sampling", "pipeline",
        "batches", "lettering", "phases", "processes", "store",
    ],
    "replay": [
        "axes", "edits", "embeddings", "engine", "pipeline", "plan", "scope", "sources", "store",
    ],
    "export": ["catalog", "edits", "models", "pipeline", "replay", "store", "ablate"],
    "metrics": [],
    "effects": ["store"],
    "looks": ["metrics", "store"],
    "drift": ["effects", "looks", "metrics", "store"],
    "classes": ["drift"],
    "concepts": ["models"],
    "sheets": ["store", "drift", "page"],
    "matching": ["store"],
    "compare": ["matching", "metrics", "page", "store"],
    "pictures.__init__": [],
    "pictures.svg": ["page", "store"],
    "pictures.measures": [*PICTURED, "pictures.svg"],
    "pictures.marks": ["page", "pictures.svg"],
    "pictures.blueprint": ["modules"],
    "pictures.tiles": [
        *PICTURED, "pictures.svg", "pictures.measures", "pictures.marks", "pictures.blueprint",
    ],
    "pictures.shapes": [
        *PICTURED, "pictures.svg", "pictures.measures", "pictures.marks", "pictures.blueprint",
        "pictures.tiles",
    ],
    "pictures.stacks": [
        "page", "pictures.svg", "pictures.measures", "pictures.marks", "pictures.blueprint",
        "pictures.tiles", "pictures.shapes",
    ],
    "pictures.architecture": [
        *PICTURED, "pictures.svg", "pictures.measures", "pictures.blueprint", "pictures.tiles",
        "pictures.shapes", "pictures.stacks",
    ],
    "pictures.maps": [*PICTURED, "pictures.svg", "pictures.measures"],
    "pictures.curves": [*PICTURED, "pictures.svg", "pictures.measures"],
    "pictures.animations": [*PICTURED, "pictures.svg", "pictures.measures"],
    "webpage": ["store"],
    "report": ["modules", "store", "drift", "effects", "webpage"],
    # What was found of units, drawn from a study's folder.
    "pictures.facts": ["pictures.svg"],
    "pictures.intervals": ["page", "pictures.svg"],
    "pictures.distributions": ["page", "pictures.svg", "pictures.facts"],
    "pictures.unitcards": [
        "effects", "page", "pictures.svg", "pictures.facts", "pictures.intervals",
    ],
    "pictures.atlases": ["page", "pictures.svg", "pictures.facts"],
    "folio": [
        "page", "webpage", "pictures.svg", "pictures.facts", "pictures.distributions",
        "pictures.unitcards", "pictures.atlases",
    ],
    "lab": [*BELOW, *DRAWN],
    "exits": ["code", "recipe", "scope", "models", "sheets", "store", "pictures.svg"],
    "viewing": [*BELOW, *DRAWN, "exits", "lab"],
    "progress": ["engine"],
    # Studies of units, on top of all that makes images.
    "units.__init__": [],
    "units.clock": ["engine"],
    "units.statistics": [],
    "units.stimuli": ["articles"],
    "units.layers": ["catalog", "scope"],
    "units.study": [
        "catalog", "concepts", "folio", "lab", "models", "modules", "pipeline", "plan", "processes",
        "recipe", "scope", "sources", "store", "units.clock", "units.layers", "units.stimuli",
    ],
    "units.recording": [
        "batches", "edits", "engine", "phases", "pipeline", "plan", "rows", "sampling", "scope",
        "store", "units.clock", "units.layers", "units.study",
    ],
    "units.selectivity": STUDIED,
    "units.search": ["catalog", *STUDIED],
    "units.need": [
        "concepts", "drift", "edits", "effects", "engine", "looks", "plan", "sampling", "scope",
        "sweep", *STUDIED,
    ],
    "units.multimodal": [
        "concepts", "engine", "lettering", "sampling", "units.search", *STUDIED,
    ],
    "units.cards": [
        "batches", "engine", "models", "sampling", "units.gallery", "units.multimodal",
        "units.need", "units.objectives", "units.search", "units.selectivity", "units.wanted",
        *STUDIED,
    ],
    # Feature visualization.
    "units.objectives": ["catalog", "scope", "units.layers"],
    "units.expressions": ["catalog", "units.objectives"],
    "units.canvas": [],
    "units.ascent": ["sampling", "units.objectives"],
    "units.calls": ["articles", "models", "pipeline", "sampling", "scope"],
    "units.visualize": [
        "concepts", "pipeline", "units.ascent", "units.calls", "units.canvas", "units.gallery",
        "units.objectives",
    ],
    "units.gallery": ["page", "store", "units.ascent", "units.clock", "units.objectives"],
    "units.wanted": [
        "concepts", "engine", "pipeline", "units.ascent", "units.clock", "units.gallery",
        "units.objectives", "units.visualize",
    ],
    # The activation atlas.
    "units.layout": ["store"],
    "units.vectors": ["catalog", "engine", "plan", *STUDIED],
    "units.bins": ["units.layout", "units.vectors"],
    "units.atlas": [
        "engine", "sampling", "units.bins", "units.layout", "units.objectives", "units.vectors",
        "units.visualize", *STUDIED,
    ],
    "studies": [
        *BELOW, "exits", "folio", "progress", *(f"units.{name}" for name in STUDIES), *STUDIED,
    ],
    "bench": [
        "edits", "plan", "recipe", "store", "loading", "models", "pipeline", "sampling", "sweep",
        "engine",
    ],
    "cli": [
        *BELOW, "lab", "bench", "bundled", "exits", "viewing", "studies", "progress", "ablate",
    ],
}  # fmt: skip


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """The files of this package that a file imports."""
    found = set()
    for name in imports(tree):
        _, _, inner = name.partition("ablate.")
        if name.startswith("ablate.") and inner not in FOLDERS:
            parts = inner.split(".")
            home = ".".join(parts[: 2 if parts[0] in FOLDERS else 1])
            found.add(home if home in FILES or home == "bundled" else "ablate")
    return found


def libraries(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


def test_every_file_has_its_layer() -> None:
    assert sorted(FILES) == sorted(LAYERS)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name: str) -> None:
    assert sorted(ours(TREES[name]) - set(LAYERS[name])) == []


def test_layers_have_no_circles() -> None:
    reached: set[str] = set()
    while len(reached) < len(LAYERS) - 1:  # `__init__` imports lazily
        free = [
            name
            for name in LAYERS.keys() - reached - {"__init__"}
            if ours(TREES[name]) - {"ablate", "bundled"} <= reached
        ]
        assert free, f"a circle among {sorted(LAYERS.keys() - reached)}"
        reached.update(free)


def test_the_bundled_model_stands_alone() -> None:
    tree = ast.parse((PACKAGE / "bundled" / "__init__.py").read_text(encoding="utf-8"))
    assert libraries(tree) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        # The benchmark is also the script that a user of diffusers would write.
        ("diffusers", ["bench", "loading", "models", "skeletons"]),
        ("transformers", ["concepts", "loading", "models", "skeletons"]),
        ("accelerate", ["processes"]),
    ],
)
def test_heavy_libraries_have_boundaries(library: str, homes: list[str]) -> None:
    assert [name for name, tree in TREES.items() if library in libraries(tree)] == homes


@pytest.mark.parametrize(
    "module",
    [
        "sheets", "report", "folio", "classes", "cli", "studies", "units.statistics",
        *(n for n in FILES if n[:9] == "pictures."),
    ],
)  # fmt: skip
def test_presentation_needs_no_torch(module: str) -> None:
    program = f"import sys, ablate.{module}; print('torch' in sys.modules)"
    assert python("-c", program) == "False"


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom ablate.cli import main\n"
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
    assert not {"utils", "helpers", "common", "misc"} & FILES.keys()
