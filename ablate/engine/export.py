"""Export: a variant as a model that diffusers loads without this package.

    export = export_variant(Run("outputs/quickstart"), "amount=0.2")
    pipe = diffusers.DiffusionPipeline.from_pretrained(export.path)

The weights are saved while the edits are applied, as for the variant's cells: as a pipeline in
diffusers' format, or as one safetensors file of the tensors that change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ablate import __version__
from ablate.edits import Edit, NoiseCache, Variant, applied, edited_parameters
from ablate.engine.replay import Recorded
from ablate.messages import RequestError, counted, did_you_mean
from ablate.models import folder_of
from ablate.sampling import Pipeline
from ablate.store import (
    Run,
    StoredCell,
    atomic_write,
    check_folder,
    read_record,
    sweep_temporaries,
)

ABOUT = "ablate.json"  # in an exported folder: what it is, and which files the export wrote
NAMED = 5  # modules or variants that a sentence names before it says that there are more
LONGEST = 80  # characters of a file's name, or of a name in a text
SAME = ("fingerprint", "component", "dtype", "perturbation_seed", "edits")  # of equal exports


class ExportError(RequestError, ValueError):
    """A variant that cannot be exported, or not to that place; the message says why."""


@dataclass(frozen=True)
class Export:
    """An exported variant.

    Attributes:
        path: The folder or file.
        sizes: Bytes of each file of weights, by its path in the folder.
        changed: Tensors in which a bit differs from the model's, as `component.module.parameter`.
        replaced: Whether an earlier export was replaced.
        usage: Lines of Python that load it.
    """

    path: Path
    sizes: Mapping[str, int]
    changed: tuple[str, ...]
    replaced: bool
    usage: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Lines for the user."""
        lines = [f"{_changes(self.changed)} from the model's"]
        if self.replaced:
            lines.append("an earlier export of the same variant was replaced")
        lines += [f"{_bytes(size):>9}  {name}" for name, size in self.sizes.items()]
        return [*lines, str(self.path), "to load it:", *(f"    {line}" for line in self.usage)]


def export_variant(
    run: Run,
    variant: str,
    out: Path | None = None,
    *,
    changed: bool = False,
    device: str | None = None,
    pipeline: Pipeline | None = None,
    model: str | None = None,
    before: Callable[[Recorded], object] = lambda _: None,
) -> Export:
    """Write the edited network of a variant, in the dtype of its cells; atomically.

    An earlier export of the same variant is replaced.

    Args:
        variant: Its name, or the key or PNG of one of its cells.
        out: A folder, by default `export/<variant>` in the run.
        changed: Write one file of the tensors that differ, to `out` if that ends in
            `.safetensors`, else into the folder `out`. A folder has the scheduler of the cell.
        pipeline: The run's, if it is loaded; its weights are restored bit by bit.
        model: Loaded instead of the model that the record names.
        before: Called before anything is loaded; it may raise.

    Raises:
        ExportError: The edits are not of weights, or `out` is something else.
        StoreError: The run or the PNG cannot be read.
        ModelError: The model is not there.
    """
    recorded = Recorded.of(*record_of(run, variant), model)
    edits = recorded.cell.variant
    _check_exportable(edits, changed)
    about = _about(recorded.record)
    name = safe_name(edits.name)
    if not changed:
        target = out or run.folder / "export" / name
    elif out is not None and out.suffix == ".safetensors":
        target = out
    else:
        target = (out or run.folder / "export") / f"{name}.safetensors"
    replaced = _check_target(target, about)
    before(recorded)
    pipeline = pipeline or recorded.load(device)
    if pipeline.fingerprint != about["fingerprint"]:
        raise ExportError(
            f"`{about['model']}` is not what it was when the cells of `{edits.name}` were"
            f" computed: it has fingerprint {pipeline.fingerprint}, then {about['fingerprint']}"
        )
    with _edited(pipeline, edits) as parameters:
        names = tuple(parameters)
        if changed and not names:
            raise ExportError(
                f"the edits of `{edits.name}` leave every tensor as it is; there is nothing to"
                " write for --changed"
            )
        final = target.resolve()  # where a link points to, so that both are on one disk
        sweep_temporaries(final.parent)  # of an export that was killed
        if changed and final.is_dir():  # an empty folder is free
            final.rmdir()
        try:
            with atomic_write(final) as temporary:
                if changed:
                    _write_file(temporary, parameters, about)
                else:
                    text = card(edits, about, pipeline, names)
                    _write_folder(temporary, pipeline, text, about)
        except SafetensorError as error:  # a full disk, for one
            raise ExportError(f"{target} cannot be written: {error}") from error
    usage = _usage_of_file(target, about, names) if changed else _usage_of_folder(target, about)
    files = [target] if changed else sorted(target.rglob("*.safetensors"))
    sizes = {
        (file.name if changed else file.relative_to(target).as_posix()): file.stat().st_size
        for file in files
    }
    return Export(target, sizes, names, replaced, usage)


def record_of(run: Run, variant: str) -> tuple[Path, dict[str, Any]]:
    """The PNG and record of a variant's first finished cell, or of the cell with that key or PNG.

    Raises `ExportError` if there is none, or if variants with different edits have that name.
    """
    cells = [*run.cells(), *run.floor()]
    named = [cell for cell in cells if cell.variant == variant]
    chosen = named or [cell for cell in cells if cell.key == variant]
    if not chosen and variant.lower().endswith(".png"):
        return Path(variant), read_record(Path(variant))
    if not chosen:
        known = list(dict.fromkeys(cell.variant for cell in cells))
        raise ExportError(
            f"{run.folder} has no variant `{variant}`{did_you_mean(variant, known)}; it has"
            f" {_some(f'`{name}`' for name in known)}"
        )
    done = [cell for cell in chosen if cell.done]
    if not done:
        raise ExportError(f"no cell of `{variant}` is finished; run its recipe first")
    if named and _distinct_edits(done) > 1:
        raise ExportError(
            f"`{variant}` names several variants of {run.folder}; give the key or the PNG of a cell"
        )
    return done[0].path, done[0].record()


def _distinct_edits(cells: list[StoredCell]) -> int:
    records = (cell.record() for cell in cells if not cell.is_baseline)
    return len({repr((r["edits"], r.get("perturbation_seed"))) for r in records})


def _check_exportable(variant: Variant, changed: bool) -> None:
    """Raise `ExportError` for edits that are not a permanent change of weights."""
    if changed and variant.is_baseline:
        raise ExportError(
            f"`{variant.name}` edits nothing; there is nothing to write for --changed (without it,"
            " the model is exported as it is)"
        )
    for edit in variant.edits:
        why = None
        if edit.where == "image":
            why = "edits the finished picture (where: image), which weights do not contain"
        elif edit.where != "weights":
            why = f"edits the {edit.where} of {_modules(edit)} (where: {edit.where}), not weights"
        elif edit.when is not None:
            why = f"is for a part of the sampling alone (when: {edit.when}); weights are for all"
        if why is not None:
            raise ExportError(f"`{variant.name}` cannot be exported: its `{edit.op}` {why}")


def _modules(edit: Edit) -> str:
    paths = edit.all_modules
    return f"`{paths[0]}`" if len(paths) == 1 else f"{len(paths)} modules, `{paths[0]}` first"


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies an export, as plain objects."""
    return {
        "ablate": __version__,
        "model": record["model"]["id"],
        "fingerprint": record["model"]["fingerprint"],
        "component": record["component"],
        "dtype": record["dtype"],
        "scheduler": record["condition"]["sampling"]["scheduler"],
        "variant": record["variant"],
        "perturbation_seed": record.get("perturbation_seed", 0),
        "edits": record["edits"],
    }


@contextmanager
def _edited(pipeline: Pipeline, variant: Variant) -> Iterator[dict[str, nn.Parameter]]:
    """Apply a variant to all networks that it edits.

    Yields:
        The parameters that it changes, by name; a tensor that two modules share comes once.
    """
    edits: dict[str, list[Edit]] = {}
    for edit in variant.edits:
        edits.setdefault(edit.component or pipeline.component, []).append(edit)
    parts = {name: replace(variant, edits=tuple(some)) for name, some in edits.items()}
    # Digests need no memory, where copies would need as much as all that is edited.
    before = {
        ".".join(filter(None, (component, item.module, item.name))): (
            item.parameter,
            _digest(item.parameter),
        )
        for component, part in parts.items()
        for item in edited_parameters(dict(pipeline.networks[component].named_modules()), part)
    }
    noise = NoiseCache(checkpoint=pipeline.checkpoint)
    with ExitStack() as stack:
        for component, part in parts.items():
            stack.enter_context(applied(pipeline.networks[component], part, noise))
        yield {
            name: parameter
            for name, (parameter, digest) in before.items()
            if _digest(parameter) != digest
        }


def _digest(parameter: nn.Parameter) -> bytes:
    content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(content.numpy().data, digest_size=16).digest()


def safe_name(variant: str) -> str:
    """A variant's name as a file name.

    If more is lost than commas and spaces, a digest distinguishes it from similar ones.
    """
    name = re.sub(r"[^\w.=+-]+", "-", variant.replace(" + ", "+")).strip("-.")
    if name and len(name) <= LONGEST and re.fullmatch(r"[\w=+][\w.=+, -]*[\w=+]|\w", variant):
        return name
    digest = hashlib.blake2b(variant.encode(), digest_size=4).hexdigest()
    return f"{name[: LONGEST - 9] or 'variant'}-{digest}"


def _check_target(target: Path, about: Mapping[str, Any]) -> bool:
    """Whether `target` is an earlier export of the same. Raises `ExportError` if it is not free."""
    is_file = target.suffix == ".safetensors" and not target.is_dir()
    if not target.exists():
        check_folder(target.parent if is_file else target)
        return False
    if target.is_dir() and not any(target.iterdir()):
        return False
    earlier = _read_file(target) if is_file else _read_folder(target)
    other = "choose another with --out"
    if earlier is None:
        what = "exists" if target.is_file() else "is a folder that is not empty,"
        raise ExportError(f"{target} {what} and is no export of a variant; {other}")
    if any(earlier.get(key) != about[key] for key in SAME):
        raise ExportError(
            f"{target} is an export of another variant, `{earlier.get('variant')}` of"
            f" `{earlier.get('model')}` in {earlier.get('dtype')}; {other}"
        )
    if not is_file:
        strange = sorted(_files(target) - {*earlier.get("files", ()), ABOUT})
        if strange:
            raise ExportError(
                f"{target} contains an earlier export of this variant, and {_some(strange)}"
                f" besides; move what is not of the export, or {other}"
            )
    return True


def _files(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def _read_folder(folder: Path) -> dict[str, Any] | None:
    """What an exported folder says about itself; None if it is none."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _read_file(file: Path) -> dict[str, Any] | None:
    """What a file of changed tensors says about itself; None if it is none."""
    try:
        with safe_open(file, framework="pt") as content:
            about: dict[str, Any] = dict(content.metadata() or {})
        for key in ("perturbation_seed", "edits"):
            about[key] = json.loads(about[key])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return about


def _write_file(
    file: Path, parameters: Mapping[str, nn.Parameter], about: Mapping[str, Any]
) -> None:
    tensors = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    save_file(tensors, file, {"format": "pt", **metadata})


def _write_folder(folder: Path, pipeline: Pipeline, text: str, about: Mapping[str, Any]) -> None:
    pipe = pipeline.pipe
    before = pipe.scheduler
    try:
        pipe.scheduler = pipeline.scheduler_of(about["scheduler"])
        pipe.save_pretrained(folder, safe_serialization=True)
    finally:
        pipe.scheduler = before
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
    files = {"files": sorted(_files(folder))}
    (folder / ABOUT).write_text(json.dumps({**about, **files}, indent=1) + "\n", encoding="utf-8")


def _usage_of_folder(folder: Path, about: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "import torch; from diffusers import DiffusionPipeline",
        f"pipe = DiffusionPipeline.from_pretrained({str(folder)!r}, dtype=torch.{about['dtype']})",
    )


def _usage_of_file(file: Path, about: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    components = ", ".join(repr(name) for name in dict.fromkeys(n.split(".")[0] for n in names))
    folder = folder_of(about["model"])
    kind, _, commit = about["fingerprint"].partition(":")
    revision = f", revision={commit!r}" if kind == "commit" else ""
    return (
        "import torch; from diffusers import DiffusionPipeline;"
        " from safetensors.torch import load_file",
        f"pipe = DiffusionPipeline.from_pretrained({str(folder or about['model'])!r}{revision},"
        f" dtype=torch.{about['dtype']}); changed = load_file({str(file)!r})",
        f"for part in [{components}]: getattr(pipe, part).load_state_dict({{k.partition('.')[2]: v"
        " for k, v in changed.items() if k.partition('.')[0] == part}, strict=False)",
    )


def card(
    variant: Variant, about: Mapping[str, Any], pipeline: Pipeline, names: tuple[str, ...]
) -> str:
    """The model card of an exported folder, Markdown. `names`: of the tensors that changed."""
    kind, _, digest = about["fingerprint"].partition(":")
    is_local = kind != "commit"
    # The path of a local folder is private; its name is not.
    model = Path(about["model"]).name if is_local else about["model"]
    base = "" if is_local else f"base_model: {json.dumps(model)}\n"
    edits = "; ".join(_edit(edit, pipeline) for edit in variant.edits)
    seed = f", from perturbation seed {variant.perturbation_seed}" if variant.is_random else ""
    how = f"with these edits of its weights: {edits}{seed}" if edits else "as it is, without edits"
    return (
        f"---\nlibrary_name: diffusers\ntags: [ablate, text-to-image]\n{base}---\n\n"
        f"# {_code(model)}, {_code(variant.name)}\n\n"
        f"This is the model {_code(model)} ({kind} {digest}), {how}. {_changes(names)} from that"
        f" model's; nothing was trained. Exported by ablate {about['ablate']}; {_code(ABOUT)} has"
        f" the edits in full. The weights are in {about['dtype']}, and there is no safety checker."
        " The license of that model applies to this one.\n\n"
        "```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipe = DiffusionPipeline.from_pretrained(".", dtype=torch.{about["dtype"]})\n```\n'
    )


def _edit(edit: Edit, pipeline: Pipeline) -> str:
    """An edit in a few words of Markdown, its modules in short."""
    settings = {
        k: v
        for k, v in edit.as_json().items()
        if k not in ("op", "code", "component", "modules", "partners")
    }
    given = f" ({_code(json.dumps(settings)[1:-1])})" if settings else ""
    paths = edit.all_modules
    where = _code(edit.component or pipeline.component)
    return (
        f"{_code(edit.op)}{given} on {counted(len(paths), 'module')} of {where},"
        f" {_some(map(_code, paths))}"
    )


def _code(text: str) -> str:
    """Any text as Markdown code, on one line and not too long; nothing in it is interpreted."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 3]}..."
    fence = "`" * (1 + max(map(len, re.findall("`+", short)), default=0))
    space = " " if "`" in short else ""
    return f"{fence}{space}{short}{space}{fence}"


def _changes(names: tuple[str, ...]) -> str:
    counts = Counter(name.split(".")[0] for name in names)
    where = ", ".join(f"{count} of {component}" for component, count in counts.items())
    return (
        f"{counted(len(names), 'tensor')}{f' ({where})' if where else ''}"
        f" differ{'s' * (len(names) == 1)}"
    )


def _some(names: Iterable[str]) -> str:
    """The first few of many names."""
    shown = list(names)
    rest = f" and {len(shown) - NAMED:,} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + rest


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.2f} GB"
