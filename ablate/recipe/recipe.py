"""Recipes: what to do to a network, and what to ask of it.

    recipe = Recipe.load("recipes/quickstart.yaml")
    recipe = Recipe.build({"version": 1, "name": "mine", "edits": [{"zero": {"modules": "*"}}]})

Reading knows nothing of networks; `ablate.plan` checks a recipe beside its model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from ablate.drift import Extra
from ablate.edits import OPS, CodeError, load_code
from ablate.models import Lora, located
from ablate.recipe.axes import AxisOrList
from ablate.recipe.conditions import Sampling
from ablate.recipe.document import (
    TEXT,
    Document,
    KeyPath,
    Problem,
    RecipeError,
    kind_of,
    replaced,
)
from ablate.recipe.edits import AnyEdit, Seeds
from ablate.recipe.prompt_files import PromptsOrFile, with_prompts
from ablate.recipe.references import reference_mistakes
from ablate.recipe.strict import (
    ENOUGH,
    INVALID,
    Mistake,
    Strict,
    fail,
    given,
    invalidated,
    optional,
    validated,
)
from ablate.recipe.types import (
    Into,
    ListOf,
    Number,
    Rule,
    Short,
    Text,
    Truth,
    Whole,
    Word,
    in_yaml,
    is_text,
)
from ablate.sampling import Sampling as Settings

VERSION = 1
# Where files and folders are named, `*` being each key, `[]` each item; not the model of a `blend`,
# whose name is part of the keys of cells.
LOCATED = (
    "model", "config", "clip", "readers []", "lora []", "lora [] model", "axes * cumulative run",
    "edits [] * units run",
)  # fmt: skip
BASE = "base.png"  # beside the recipe of a run, a copy of the cell that it starts from
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


# ---------------------------------------------------------------- parts


class LoraSpec(Strict):
    """Low-rank matrices that are added to a model's weights."""

    model: Text = Field(description="A safetensors file, a folder or a hub id.")
    weight_name: Text | None = optional("Which file of the folder or repository.")
    scale: Number = optional("How much of them is added.", 1.0)
    revision: Text | None = optional("A commit, branch or tag on the hub.")


LoraOrText = Annotated[Lora, Into(LoraSpec, Lora), Short("model", is_text, Text)]


def _names(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not isinstance(value, str | list):
        fail(Mistake(f"must be an axis or a list of axes, not {given(value)}"))
    return (value,) if isinstance(value, str) else handler(value)


_NAMES = {"type": "array", "items": {"type": "string"}}
Names = Annotated[
    tuple[Text, ...],
    WrapValidator(_names),
    WithJsonSchema({"anyOf": [{"type": "string"}, _NAMES]}),
]


class SheetSpec(Strict):
    """The contact sheet."""

    rows: Names = optional("An axis, or several, that rows run over.", ())
    columns: Names = optional("An axis, or several, that columns run over.", ())
    concepts: Truth = optional("Whether the concepts seen are written on images.", False)


def _zipped(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Groups of axis names; a list of names alone is one group."""
    if not isinstance(value, list):
        fail(Mistake(f"must be a list of axis names, not {given(value)}"))
    nested = value if not value or any(isinstance(item, list) for item in value) else [value]
    if not all(isinstance(item, list) for item in nested):
        fail(Mistake("must be a list of axis names, or a list of such lists"))
    return tuple(tuple(map(str, group)) for group in nested)


Zipped = Annotated[
    tuple[tuple[str, ...], ...],
    WrapValidator(_zipped),
    WithJsonSchema({"anyOf": [_NAMES, {"type": "array", "items": _NAMES}]}),
]


def _axes(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    wrong = [
        Mistake("an axis is named by letters, digits and `_`", (name,), "key")
        for name in (value if isinstance(value, dict) else ())
        if not re.fullmatch(r"[A-Za-z_]\w*", name)
    ]
    if wrong:
        fail(*wrong)
    return handler(value)


# ---------------------------------------------------------------- the recipe


class Recipe(Strict):
    """What to do to a network, and what to ask of it."""

    version: Literal[1] = Field(description=f"Always `{VERSION}`, the version of this format.")
    name: Annotated[str, Field(strict=True, pattern=NAME)] = Field(
        description="The name of the run, and of its folder."
    )
    about: Text = optional("A sentence on what it shows.", "")
    model: Text = optional(
        "`bundled`, a hub id, a folder of diffusers, `sd15-random`, or one safetensors file.",
        "bundled",
    )
    revision: Text | None = optional("A commit, branch or tag on the hub.")
    variant: Text | None = optional("A variant of weight files, such as `fp16`.")
    config: Text | None = optional(
        "The folder or hub id that describes a model of one safetensors file."
    )
    lora: Annotated[tuple[LoraOrText, ...], ListOf("LoRAs", distinct=False)] = optional(
        "Low-rank matrices to add to the weights, one after the other.", ()
    )
    offload: Literal["model"] | None = optional("Keep on the accelerator only the network at work.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = optional(
        "The type of the weights; `auto` is what the hardware is fast at.", "auto"
    )
    compile: Truth = optional("Whether the network is compiled by torch.", False)
    component: Text | None = optional("The network that is edited. Default: the denoiser.")
    ops: Text | None = optional(
        "A file of further ops and metrics, beside the recipe; runs with `--allow-code`."
    )
    clip: Text | None = optional("The CLIP or SigLIP model that names concepts.")
    readers: Annotated[tuple[Word, ...], ListOf("models", empty=True)] = optional(
        "Further image encoders; each measures drift.", ()
    )
    metrics: Annotated[tuple[Annotated[Extra, Rule()], ...], ListOf("metrics", empty=True)] = (
        optional(
            "Further metrics: of two images (`lpips`), or of all images of a variant and their"
            " baselines (`fid`, `kid`).",
            (),
        )
    )
    vocabulary: Annotated[tuple[Word, ...], ListOf("words")] | None = optional(
        "The concepts that images are compared with."
    )
    prompts: PromptsOrFile = optional("What images show.", ("a cat in a party hat",))
    seeds: Seeds = optional("Where images start from.", (0,))
    noise_floor: Annotated[int, Field(strict=True, ge=2)] | None = optional(
        "How many baselines tell drift from chance; other seeds are added."
    )
    perturbation_seed: Whole = optional("What random edits are drawn from.", 0)
    sampling: Sampling = Field(
        default_factory=Settings, description="Steps, guidance, scheduler and size of images."
    )
    axes: Annotated[dict[str, AxisOrList], WrapValidator(_axes)] = optional(
        "What varies, by name. Axes multiply.", {}
    )
    zipped: Zipped = Field((), alias="zip", description="Axes that go together, value by value.")
    base: Text | None = optional(
        "The PNG of a cell of this model, whose edits come before the others; beside the recipe."
    )
    edits: Annotated[tuple[AnyEdit, ...], ListOf("edits", distinct=False, empty=True)] = optional(
        "What is done to the network, in this order.", ()
    )
    sheet: SheetSpec | None = optional("How the contact sheet is laid out.")

    _document: Document = PrivateAttr(Document({}))

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        allow_code: bool = False,
    ) -> Recipe:
        """Read a recipe file.

        Args:
            overrides: Values by the dotted keys that they replace, as `sampling.width`.
            allow_code: Execute the file of ops that the recipe names, if it does.

        Raises:
            RecipeError: With all mistakes.
            OSError: The file cannot be read.
        """
        return _whole(*read_recipe(Path(path), overrides, allow_code=allow_code))

    @classmethod
    def build(
        cls,
        data: Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        *,
        allow_code: bool = False,
    ) -> Recipe:
        """A recipe from plain objects, as strict as a file; see `load`. Raises `RecipeError`."""
        objects = plain(data)
        document = Document(objects, yaml.safe_dump(objects, sort_keys=False))
        return _whole(*_read(document, overrides, allow_code=allow_code))

    @property
    def source(self) -> str:
        """Its text with all values that replaced others; files and folders by their full paths, the
        base beside it, and prompts themselves in place of a file of them, so that it is the same
        recipe wherever it is read."""
        data = changes = self._document.data
        for place in LOCATED:
            changes = _with_full_paths(changes, place.split())
        if self.code_file is not None:
            changes = {**changes, "ops": str(self.code_file)}
        if self.base_file is not None:
            changes = {**changes, "base": BASE}
        drawn = data.get("prompts")
        if isinstance(drawn, dict):
            changes = {**changes, "prompts": list(self.prompts)}
        text = self._document.written(
            {key: value for key, value in changes.items() if value != data[key]}
        )
        from_file = " ".join(str(in_yaml(drawn)).split())
        return f"# prompts: {from_file}\n{text}" if isinstance(drawn, dict) else text

    @property
    def base_file(self) -> Path | None:
        """The full path of the cell whose edits come first; None without one."""
        return self._beside(self.base) if self.base else None

    @property
    def code_file(self) -> Path | None:
        """The full path of the file of ops and metrics that it names; None without one."""
        ops = self._document.data.get("ops")
        return self._beside(ops) if isinstance(ops, str) else None

    def _beside(self, name: str) -> Path:
        """The full path of a file that is named beside it."""
        return (Path(self._document.file or "").parent / name).absolute()

    def revised(self, source: str, **changes: Any) -> Recipe:
        """The recipe with another text, and with other values of some keys, which are valid."""
        revised = self.model_copy(update=changes)
        revised._document = Document(self._document.data, source)
        return revised

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at one of its keys, with the place in its file."""
        return self._document.problem(path, message)

    def gives(self, path: KeyPath) -> bool:
        """Whether a key is written in it."""
        *above, last = path
        data = self._document.data
        for part in above:
            data = data.get(part) if isinstance(data, dict) else None
        return isinstance(data, dict) and last in data

    def value_path(self, axis: str, number: int) -> KeyPath:
        """The key of a value of an axis that lists or spaces its values."""
        if isinstance(self._document.data["axes"][axis], list):
            return ("axes", axis, number)
        return ("axes", axis, self.axes[axis].form, number)

    def __eq__(self, other: object) -> bool:
        """Whether all keys are the same, wherever they are written."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def mistakes(self) -> Iterator[Mistake]:
        if self.config and self.model and not self.model.endswith(".safetensors"):
            message = (
                "describes a model that is one .safetensors file;"
                f" `{self.model}` has its own configuration"
            )
            yield Mistake(message, ("config",))
        for where in ("output", "input") if self.compile else ():
            if any(edit.where == where for edit in self.edits):
                message = (
                    f"does not go with `where: {where}`: a compiled network returns nothing on the"
                    " way"
                )
                yield Mistake(message, ("compile",))


# ---------------------------------------------------------------- reading


def read_recipe(
    path: Path, overrides: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> tuple[Recipe | None, list[Problem]]:
    """Read a recipe file as far as it can be read.

    Returns:
        The recipe, whose wrong parts are `INVALID`, and its problems; None where all is wrong.

    Raises:
        OSError: The file cannot be read.
    """
    if path.exists() and not path.is_file():
        return None, [Problem("is no regular file", file=str(path))]
    if path.is_file() and path.stat().st_size > 4 * TEXT:
        return None, [
            Problem(
                f"is too large for a recipe, which has at most {TEXT:,} characters", file=str(path)
            )
        ]
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None, [Problem("is not text in UTF-8", file=str(path))]
    return parse_recipe(text, str(path), overrides, allow_code=allow_code)


def parse_recipe(
    text: str,
    file: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_code: bool = False,
) -> tuple[Recipe | None, list[Problem]]:
    """Read the text of a recipe; see `read_recipe`."""
    return _read(Document.parse(text, file), overrides, allow_code=allow_code)


def _read(
    document: Document, overrides: Mapping[str, Any] | None, *, allow_code: bool
) -> tuple[Recipe | None, list[Problem]]:
    for key, value in (overrides or {}).items():
        document.override(key, plain(value))
    data, problems = document.data, list(document.problems)
    if data is None:
        return None, problems
    if not isinstance(data, dict) or not data:
        what = kind_of(data) if data else "an empty file"
        message = f"a recipe is a mapping that begins `version: {VERSION}`, not {what}"
        return None, [*problems, document.problem((), message)]
    wrong_code = _load_ops(document, allow_code)
    if wrong_code is not None:
        problems.append(document.problem(("ops",), wrong_code))
        data = _without_unknown_ops(data)
    data, of_prompts = with_prompts(data, document.file)
    recipe, data, mistakes = validated(Recipe, data)
    mistakes = of_prompts + mistakes
    if recipe is not None:
        recipe._document = document
        wrong = [path for path, _ in mistakes]
        of_references = list(islice(reference_mistakes(recipe, document.data, wrong), ENOUGH))
        mistakes += of_references
        recipe, *_ = validated(Recipe, invalidated(data, [path for path, _ in of_references]))
    if recipe is not None:
        recipe._document = document
        if not (recipe.edits or recipe.axes or recipe.base or mistakes or problems):
            message = (
                "an empty sweep: there are neither `edits` nor `axes`; an edit is, for example,"
                ' `zero: {modules: "*"}`'
            )
            mistakes.append(((), message))
    return recipe, problems + [document.problem(path, message) for path, message in mistakes]


def _with_full_paths(data: Any, place: list[str]) -> Any:
    """The data in which the files and folders at a place are named by their full paths."""
    if not place:
        return located(data) if isinstance(data, str) else data
    first, *rest = place
    if isinstance(data, dict):
        return {
            key: _with_full_paths(value, rest) if first in (key, "*") else value
            for key, value in data.items()
        }
    if isinstance(data, list) and first == "[]":
        return [_with_full_paths(item, rest) for item in data]
    return data


def _whole(recipe: Recipe | None, problems: list[Problem]) -> Recipe:
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def _load_ops(document: Document, allow_code: bool) -> str | None:
    """Load the file of ops that a recipe names; what is wrong with it."""
    name = document.data.get("ops")
    if not isinstance(name, str):
        return None
    if not allow_code:
        return (
            f"names code, `{name}`; look at it, and allow it to run with `--allow-code`, or"
            " `allow_code=True` in Python"
        )
    try:
        load_code(Path(document.file or "").parent / name)
    except CodeError as error:
        return str(error)
    return None


def _without_unknown_ops(data: dict[str, Any]) -> Any:
    """The data in which edits with ops that may be in a file that is not loaded are invalid."""
    edits = data.get("edits")
    for i, edit in enumerate(edits if isinstance(edits, list) else ()):
        if isinstance(edit, dict) and len(edit) == 1 and not set(edit) & set(OPS):
            data = replaced(data, ("edits", i), INVALID)
    return data


def plain(value: Any) -> Any:
    """Objects of Python and numpy as YAML has them. Raises `RecipeError` for others."""
    if hasattr(value, "tolist"):  # of numpy, whose float64 is also a float
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | Set):
        return [plain(item) for item in value]
    raise RecipeError([Problem(f"`{value!r}` is not text, a number, a list or a mapping")])
