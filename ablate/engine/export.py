"""Export: a variant as a model of its own, which diffusers loads without the lab.

    made = export(Run("outputs/quickstart"), "amount=0.2")
    pipe = diffusers.DiffusionPipeline.from_pretrained(made.path)

The edits are applied as they were for the variant's cells, and saved while they are: as a whole
pipeline in diffusers' format, or as one safetensors file of the tensors that they change.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
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
from ablate.engine.replay import cell_of, pipeline_of
from ablate.messages import RequestError, did_you_mean
from ablate.models import folder_of
from ablate.sampling import Pipeline
from ablate.store import Run, StoredCell, read_record

TOLD = "ablate.json"  # in an exported folder: what it is, and which files the export wrote
NAMED = 5  # modules or variants that a sentence names before it says that there are more
LONGEST = 80  # characters of a file's name, or of a name in a text
SAME = ("fingerprint", "component", "dtype", "perturbation_seed", "edits")  # an equal export


class ExportError(RequestError, ValueError):
    """A variant that cannot be exported, or not to where it was to be; the message says why."""


@dataclass(frozen=True)
class Export:
    """What was written. `path`: the folder or the file. `sizes`: bytes of each file of weights, by
    path within it. `changed`: the tensors that differ from the model's own in any bit, as
    `component.module.parameter`. `replaced`: whether an earlier export lay there. `usage`: the
    lines of Python that load it.
    """

    path: Path
    sizes: Mapping[str, int]
    changed: tuple[str, ...]
    replaced: bool
    usage: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What to tell about it, a line each."""
        told = [f"{_changes(self.changed)} from the model's own"]
        if self.replaced:
            told.append("an earlier export of the same variant was replaced")
        told += [f"{_bytes(size):>9}  {name}" for name, size in self.sizes.items()]
        return [*told, str(self.path), "to load it:", *(f"    {line}" for line in self.usage)]


def export_variant(
    run: Run,
    variant: str,
    out: Path | None = None,
    *,
    changed: bool = False,
    device: str | None = None,
    pipeline: Pipeline | None = None,
) -> Export:
    """Write a variant's network, in the dtype that its cells were made in.

    `variant`: its name, or the key or PNG of one of its cells. `out`: a folder, by default
    `export/<variant>` within the run. `changed`: write one file of the tensors that differ, to
    `out` if that ends in `.safetensors`, else into the folder `out`. The scheduler of a folder is
    that of the cell; a file only names it. `pipeline`: the run's own, where it is loaded already;
    its weights are afterwards as before, bit for bit.

    What appears is whole. An earlier export of the same variant is replaced. Raises `ExportError`
    for what no weights can hold and for an `out` that holds anything else, `StoreError` for a run
    or PNG that cannot be read, `ModelError` when the model is not there.
    """
    record = record_of(run, variant)
    cell = cell_of(record)
    _exportable(cell.variant, changed)
    told = _told(record)
    target = _target(run, cell.variant.name, out, changed)
    replaced = _vacant(target, told)
    pipeline = pipeline or pipeline_of(record, device)
    if pipeline.fingerprint != told["fingerprint"]:
        raise ExportError(
            f"`{told['model']}` is not what it was when the cells of `{cell.variant.name}` were"
            f" made: it has fingerprint {pipeline.fingerprint}, then {told['fingerprint']}"
        )
    with _edited(pipeline, cell.variant) as parameters:
        names = tuple(parameters)
        if changed and not names:
            raise ExportError(
                f"the edits of `{cell.variant.name}` leave every tensor as it is; there is nothing"
                " to write for --changed"
            )
        if changed:
            _placed(target, lambda file: _write_file(file, parameters, told))
        else:
            text = card(cell.variant, told, pipeline, names)
            _placed(target, lambda folder: _write_folder(folder, pipeline, text, told))
    usage = _usage_of_file(target, told, names) if changed else _usage_of_folder(target, told)
    return Export(target, _sizes(target), names, replaced, usage)


def record_of(run: Run, variant: str) -> dict[str, Any]:
    """What the first finished cell of a variant tells, or the cell of that key or PNG.

    Raises `ExportError` when there is none, or when the name stands for different edits.
    """
    cells = [*run.cells(), *run.floor()]
    named = [cell for cell in cells if cell.variant == variant]
    chosen = named or [cell for cell in cells if cell.key == variant]
    if not chosen and variant.lower().endswith(".png"):
        return read_record(Path(variant))
    if not chosen:
        known = list(dict.fromkeys(cell.variant for cell in cells))
        raise ExportError(
            f"{run.folder} has no variant `{variant}`{did_you_mean(variant, known)}; it has"
            f" {_some(f'`{name}`' for name in known)}"
        )
    done = [cell for cell in chosen if cell.done]
    if not done:
        raise ExportError(f"no cell of `{variant}` is finished; run its recipe first")
    if named and _edits_of(done) > 1:
        raise ExportError(
            f"`{variant}` stands for several variants of {run.folder}; give the key or the PNG of"
            " a cell"
        )
    return done[0].record()


def _edits_of(cells: list[StoredCell]) -> int:
    """How many different edits some cells have, whatever their names say."""
    records = (cell.record() for cell in cells if not cell.is_baseline)
    return len({repr((r["edits"], r.get("perturbation_seed"))) for r in records})


def _exportable(variant: Variant, changed: bool) -> None:
    """Raises `ExportError` for edits that are no change of weights, once and for all."""
    if changed and variant.is_baseline:
        raise ExportError(
            f"`{variant.name}` edits nothing; there is nothing to write for --changed (without it,"
            " the model is exported as it is)"
        )
    for edit in variant.edits:
        why = None
        if edit.where == "image":
            why = "edits the finished picture (where: image), which weights do not hold"
        elif edit.where != "weights":
            why = f"edits the output of {_modules(edit)} (where: {edit.where}), not weights"
        elif edit.when is not None:
            why = f"holds for a part of the sampling alone (when: {edit.when}); weights hold always"
        if why is not None:
            raise ExportError(f"`{variant.name}` cannot be exported: its `{edit.op}` {why}")


def _modules(edit: Edit) -> str:
    paths = edit.all_modules
    return f"`{paths[0]}`" if len(paths) == 1 else f"{len(paths)} modules, `{paths[0]}` first"


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an export is, in plain objects."""
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
    """Apply a variant to all networks that it edits, until the context ends. Yields the parameters
    that it changes, a tensor that two modules share once."""
    names = [edit.component or pipeline.component for edit in variant.edits]
    parts = {
        name: replace(
            variant, edits=tuple(e for e, n in zip(variant.edits, names, strict=True) if n == name)
        )
        for name in dict.fromkeys(names)
    }
    # Digests take no memory, where copies would take as much as all that is edited.
    before = {
        (name, item.module, item.name): (item.parameter, _digest(item.parameter))
        for name, part in parts.items()
        for item in edited_parameters(dict(pipeline.networks[name].named_modules()), part)
    }
    draws = NoiseCache(checkpoint=pipeline.checkpoint)
    with ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(applied(pipeline.networks[name], part, draws))
        yield {
            ".".join(filter(None, place)): parameter
            for place, (parameter, digest) in before.items()
            if _digest(parameter) != digest
        }


def _digest(parameter: nn.Parameter) -> bytes:
    content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(content.numpy().data, digest_size=16).digest()


def safe_name(variant: str) -> str:
    """A variant's name as that of a file. Where more is lost than commas and spaces, a digest tells
    it from others that would look like it."""
    name = re.sub(r"[^\w.=+-]+", "-", variant.replace(" + ", "+")).strip("-.")
    if name and len(name) <= LONGEST and re.fullmatch(r"[\w=+][\w.=+, -]*[\w=+]|\w", variant):
        return name
    digest = hashlib.blake2b(variant.encode(), digest_size=4).hexdigest()
    return f"{name[: LONGEST - 9] or 'variant'}-{digest}"


def _target(run: Run, variant: str, out: Path | None, changed: bool) -> Path:
    name = safe_name(variant)
    if not changed:
        return out or run.folder / "export" / name
    if out is not None and out.suffix == ".safetensors":
        return out
    return (out or run.folder / "export") / f"{name}.safetensors"


def _vacant(target: Path, told: Mapping[str, Any]) -> bool:
    """Whether an earlier export of the same lies at `target`, to be replaced.

    Raises `ExportError` when anything else does.
    """
    is_file = target.suffix == ".safetensors" and not target.is_dir()
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    there = _read_file(target) if is_file else _read_folder(target)
    other = "choose another with --out"
    if there is None:
        what = "exists" if target.is_file() else "is a folder that is not empty,"
        raise ExportError(f"{target} {what} and is no export of a variant; {other}")
    if any(there.get(key) != told[key] for key in SAME):
        raise ExportError(
            f"{target} holds an export of another variant, `{there.get('variant')}` of"
            f" `{there.get('model')}` in {there.get('dtype')}; {other}"
        )
    if not is_file:
        ours = {*there.get("files", ()), TOLD}
        strange = sorted(_files(target) - ours)
        if strange:
            raise ExportError(
                f"{target} holds an earlier export of this variant, and {_some(strange)} besides;"
                f" move what is not of the export, or {other}"
            )
    return True


def _files(folder: Path) -> set[str]:
    """Paths of all files in a folder and its folders, from it."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def _read_folder(folder: Path) -> dict[str, Any] | None:
    """What an exported folder tells about itself; None where it is none."""
    try:
        found = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_file(file: Path) -> dict[str, Any] | None:
    """What a file of changed tensors tells about itself; None where it is none."""
    try:
        with safe_open(file, framework="pt") as content:
            found: dict[str, Any] = dict(content.metadata() or {})
        for key in ("perturbation_seed", "edits"):
            found[key] = json.loads(found[key])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return found


def _placed(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder beside `target` and then put it in its place, so that it is whole."""
    # Where a link points to, so that both are on one disk.
    target = target.resolve()
    partial, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    target.parent.mkdir(parents=True, exist_ok=True)
    _settle(target, partial, old)  # what a killed export left
    try:
        write(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except SafetensorError as error:  # a full disk, for one
        raise ExportError(f"{target} cannot be written: {error}") from error
    finally:
        _settle(target, partial, old)


def _settle(target: Path, partial: Path, old: Path) -> None:
    """Remove what is not finished, and what was replaced once its successor is there."""
    _remove(partial)
    if old.exists() and not target.exists():
        old.rename(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_file(
    file: Path, parameters: Mapping[str, nn.Parameter], told: Mapping[str, Any]
) -> None:
    tensors = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
    save_file(tensors, file, {"format": "pt", **metadata})


def _write_folder(folder: Path, pipeline: Pipeline, text: str, told: Mapping[str, Any]) -> None:
    pipe = pipeline.pipe
    before = pipe.scheduler
    try:
        pipe.scheduler = pipeline.scheduler_of(told["scheduler"])
        pipe.save_pretrained(folder, safe_serialization=True)
    finally:
        pipe.scheduler = before
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
    files = {"files": sorted(_files(folder))}
    (folder / TOLD).write_text(json.dumps({**told, **files}, indent=1) + "\n", encoding="utf-8")


def _sizes(target: Path) -> dict[str, int]:
    if target.is_file():
        return {target.name: target.stat().st_size}
    files = sorted(target.rglob("*.safetensors"))
    return {file.relative_to(target).as_posix(): file.stat().st_size for file in files}


def _usage_of_folder(folder: Path, told: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "import torch; from diffusers import DiffusionPipeline",
        f"pipe = DiffusionPipeline.from_pretrained({str(folder)!r}, dtype=torch.{told['dtype']})",
    )


def _usage_of_file(file: Path, told: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    components = ", ".join(repr(name) for name in dict.fromkeys(n.split(".")[0] for n in names))
    folder = folder_of(told["model"])
    kind, _, commit = told["fingerprint"].partition(":")
    revision = f", revision={commit!r}" if kind == "commit" else ""
    return (
        "import torch; from diffusers import DiffusionPipeline;"
        " from safetensors.torch import load_file",
        f"pipe = DiffusionPipeline.from_pretrained({str(folder or told['model'])!r}{revision},"
        f" dtype=torch.{told['dtype']}); changed = load_file({str(file)!r})",
        f"for part in [{components}]: getattr(pipe, part).load_state_dict({{k.partition('.')[2]: v"
        " for k, v in changed.items() if k.partition('.')[0] == part}, strict=False)",
    )


def card(
    variant: Variant, told: Mapping[str, Any], pipeline: Pipeline, names: tuple[str, ...]
) -> str:
    """The model card of an exported folder, Markdown. `names`: of the tensors that changed."""
    kind, _, digest = told["fingerprint"].partition(":")
    is_local = kind != "commit"
    # Of a folder on this machine only the name is anyone's business.
    model = Path(told["model"]).name if is_local else told["model"]
    base = "" if is_local else f"base_model: {json.dumps(model)}\n"
    edits = "; ".join(_edit(edit, pipeline) for edit in variant.edits)
    seed = f", from perturbation seed {variant.perturbation_seed}" if variant.is_random else ""
    made = f"with these edits of its weights: {edits}{seed}" if edits else "as it is, without edits"
    return (
        f"---\nlibrary_name: diffusers\ntags: [ablate, text-to-image]\n{base}---\n\n"
        f"# {_code(model)}, {_code(variant.name)}\n\n"
        f"This is the model {_code(model)} ({kind} {digest}), {made}. {_changes(names)} from that"
        f" model's own; nothing was trained. Made by ablate {told['ablate']}; {_code(TOLD)} has the"
        f" edits in full. The weights are in {told['dtype']}, and there is no safety checker. The"
        " license of the model that it was made from holds for this one.\n\n"
        "```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipe = DiffusionPipeline.from_pretrained(".", dtype=torch.{told["dtype"]})\n```\n'
    )


def _edit(edit: Edit, pipeline: Pipeline) -> str:
    """An edit in a few words of Markdown, its modules in short."""
    settings = {
        k: v
        for k, v in edit.as_json().items()
        if k not in ("op", "code", "component", "modules", "partners")
    }
    given = f" ({_code(json.dumps(settings)[1:-1])})" if settings else ""
    count = f"{len(edit.all_modules)} module{'s' * (len(edit.all_modules) != 1)}"
    where = _code(edit.component or pipeline.component)
    return f"{_code(edit.op)}{given} on {count} of {where}, {_some(map(_code, edit.all_modules))}"


def _code(text: str) -> str:
    """Any text as Markdown code, on one line and not too long; nothing in it is interpreted."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 3]}..."
    fence = "`" * (1 + max(map(len, re.findall("`+", short)), default=0))
    space = " " if "`" in short else ""
    return f"{fence}{space}{short}{space}{fence}"


def _changes(names: tuple[str, ...]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        component = name.split(".")[0]
        counts[component] = counts.get(component, 0) + 1
    where = ", ".join(f"{count} of {component}" for component, count in counts.items())
    plural = len(names) != 1
    whole = f"{len(names)} tensor{'s' * plural}"
    return f"{whole}{f' ({where})' if where else ''} differ{'s' * (not plural)}"


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
