"""Records of cells as strangers may have written them: each a sound one, changed in one way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Change = Callable[[dict[str, Any]], None]
HUGE = 10**9
STRANGE = "\x1b[31mred\u202e\x07"
CHANGES: dict[str, Change] = {}


def put(*path: Any, value: Any) -> Change:
    """Replace one value of a record."""

    def change(record: dict[str, Any]) -> None:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = copy.deepcopy(value)

    return change


def _without(*path: str) -> Change:
    def change(record: dict[str, Any]) -> None:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


SAMPLING = ("condition", "sampling")
for path, values in {
    (*SAMPLING, "num_inference_steps"): (HUGE, 10**400, -1, 0, 2.5, "20", None, True, []),
    (*SAMPLING, "guidance_scale"): (float("nan"), float("inf"), "high", None),
    (*SAMPLING, "scheduler"): (None, 5, "x" * 10**5, ["ddim"]),
    (*SAMPLING, "negative_prompt"): ("a" * 10**6, None, 3),
    (*SAMPLING, "width"): (HUGE, 0, -8, None, "64"),
    ("condition", "prompt"): ("a " * 10**6, None, 5, ["a"], "\ud800"),
    ("condition", "seed"): (-1, 2**64, 0.5, "0", None),
    ("condition", "steps"): (-1, "2", 2**65),
    ("condition", "point"): (
        [], {"weights": [], "path": "lerp"}, {"weights": [["a", "b"]], "path": "lerp"},
        {"weights": [["a", 1]] * 10**4, "path": "lerp"}, {"weights": [["a", 1]], "path": "around"},
    ),
    ("edits",): ({}, "zero", [{}] * 10**5, [{"op": "zero"}], [5]),
    ("edits", 0, "modules"): (None, "conv_in", [None], ["conv_in"] * 10**5, ["x" * 10**5]),
    ("edits", 0, "over"): ([["a cat", 0]] * 10**5, [["a cat"]], [5], [["a cat", -1]]),
    ("edits", 0, "unit"): ([1], {"channels": [HUGE] * 10**6}, {"channels": 1}, {"wheels": [1]}),
    ("edits", 0, "when"): ({"steps": []}, {"moons": [0, 1]}, 5, [["steps", 1]]),
    ("edits", 0, "op"): (None, 5, "explode", STRANGE, "__class__"),
    ("edits", 0, "component"): (5, ["unet"]),
    ("edits", 0, "factor"): (None, "much", [1], float("nan"), {}),
    ("perturbation_seed",): (-1, "a", 2**70),
    ("model",): ([], {}, {"id": 5}, {"id": "", "fingerprint": ""}),
    ("model", "lora"): ({}, [5], [{"model": 5}], [{"model": "a"}] * 1000),
    ("model", "id"): (STRANGE, "a/b/c", "/etc/passwd", "../../secret", "https://example.com/x"),
    ("component",): (None, "../unet", "scheduler", STRANGE, "__init__"),
    ("dtype",): (None, "int8", "float", "Tensor", STRANGE),
    ("compile",): ("yes", 5),
    ("variant",): (5, None),
    ("axes",): ([], 5),
    ("versions",): ([], {"torch": 5}),
}.items():  # fmt: skip
    for number, value in enumerate(values):
        CHANGES[f"{'.'.join(map(str, path))} {number}"] = put(*path, value=value)
for path in (("condition",), ("condition", "prompt"), SAMPLING, (*SAMPLING, "width"), ("edits",),
             ("model",), ("model", "fingerprint"), ("component",), ("dtype",)):  # fmt: skip
    CHANGES[f"without {'.'.join(path)}"] = _without(*path)
# What a record may say: it is shown, escaped. Whether it can be computed is another matter.
ODD = (
    "edits.0.op 2", "edits.0.op 3", "edits.0.op 4", "edits.0.unit 3", "edits.0.when 1",
    "edits.0.factor", "model.id", "component 1", "component 2", "component 3", "component 4",
)  # fmt: skip
SHOWN = {name: change for name, change in CHANGES.items() if name.startswith(ODD)}
SHOWN |= {
    "a prompt that controls terminals": put("condition", "prompt", value=STRANGE),
    "modules that control terminals": put("edits", 0, "modules", value=[STRANGE]),
}
