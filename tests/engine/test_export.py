"""A variant leaves the lab: plain diffusers loads what was exported, and draws the cell's image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import byhand
import diffusers
import families
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from fabricated import DESCRIBED
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ablate.engine import run as engine
from ablate.engine.export import Export, ExportError, export_variant, safe_name
from ablate.models.errors import ModelError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.activations import Layer, Statistics
from ablate.store.files import StoreError
from ablate.store.png import read_record
from ablate.store.run import Run, StoredCell
from ablate.sweep.binding import plan

Build = Callable[..., Recipe]
Ran = Callable[..., Run]

EVERYWHERE = [
    {"mix_noise": {"modules": "stage=up", "amount": 0.3}},
    {"scale": {"modules": "conv_in", "factor": 1.5, "unit": {"channels": [0, 3]}}},
    {"zero": {"modules": "*.fc1", "component": "text_encoder"}},
    {"add_noise": {"modules": "decoder.conv_in", "amount": 0.5, "component": "vae"}},
]
VARIANT = "mix_noise + scale + zero + add_noise"


@pytest.fixture
def run(tiny: Pipeline, tmp_path: Path) -> Ran:
    """The cells of a recipe, in a folder for the test; nothing is drawn."""

    def ran(recipe: Recipe, pipeline: Pipeline = tiny, folder: str = "run", **options: Any) -> Run:
        store = Run(tmp_path / folder)
        engine.execute(plan(recipe), pipeline, store, **options)
        return store

    return ran


def cells(run: Run) -> tuple[StoredCell, StoredCell]:
    """The baseline and the one other cell."""
    baseline, cell = run.cells()
    return baseline, cell


def by_hand(pipe: Any, cell: StoredCell, **options: Any) -> np.ndarray:
    """A cell's image as a script would ask diffusers for it, uint8."""
    asked = read_record(cell.path)["condition"]
    sampling = asked["sampling"]
    pipe.set_progress_bar_config(disable=True)
    keys = ("num_inference_steps", "guidance_scale", "width", "height")
    output = pipe(
        asked["prompt"],
        generator=torch.Generator().manual_seed(asked["seed"]),
        **{key: sampling[key] for key in keys},
        **options,
    )
    return np.asarray(output.images[0])


def apart(image: np.ndarray, cell: StoredCell) -> int:
    return int(np.abs(image.astype(int) - np.asarray(cell.image(), dtype=int)).max())


def weights(pipe: Any) -> dict[str, Tensor]:
    """All tensors of a pipeline, copied."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {f"{n}.{k}": v.clone() for n, p in parts.items() for k, v in p.state_dict().items()}


def differing(one: Any, other: Any) -> set[str]:
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def execute(export: Export) -> Any:
    """The pipeline that its lines of Python load."""
    scope: dict[str, Any] = {}
    exec("\n".join(export.usage), scope)
    return scope["pipe"]


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def everywhere(run: Ran, build: Build) -> Run:
    """A run of one variant that edits three networks."""
    sampling = {"num_inference_steps": 3, "scheduler": "euler"}
    return run(build(edits=EVERYWHERE, sampling=sampling))


def test_a_folder_gives_the_image_of_the_cell(everywhere: Run, tiny: Pipeline) -> None:
    before, scheduler = weights(tiny.pipe), tiny.pipe.scheduler
    export = export_variant(everywhere, VARIANT, pipeline=tiny)
    after = weights(tiny.pipe)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tiny.pipe.scheduler is scheduler
    assert export.path == everywhere.folder / "export" / safe_name(VARIANT)
    baseline, cell = cells(everywhere)
    pipe = DiffusionPipeline.from_pretrained(export.path)
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    image = by_hand(pipe, cell)
    assert apart(image, cell) <= 2
    assert apart(image, baseline) > 20
    assert differing(pipe, tiny.pipe) == set(export.changed)
    assert {name.split(".")[0] for name in export.changed} == {"unet", "text_encoder", "vae"}
    assert export.sizes == {
        file: (export.path / file).stat().st_size
        for file in files(export.path)
        if file.endswith(".safetensors")
    }
    assert len(export.sizes) == 3
    assert differing(execute(export), pipe) == set()


def test_changed_tensors_alone_give_the_same(everywhere: Run, tiny: Pipeline) -> None:
    _, cell = cells(everywhere)
    export = export_variant(everywhere, cell.key, changed=True, pipeline=tiny)
    assert export.path == everywhere.folder / "export" / f"{safe_name(VARIANT)}.safetensors"
    pipe = execute(export)
    assert set(load_file(export.path)) == set(export.changed) == differing(pipe, tiny.pipe)
    with safe_open(export.path, framework="pt") as content:
        metadata = content.metadata()
    pipe.scheduler = getattr(diffusers, metadata["scheduler"]).from_config(pipe.scheduler.config)
    assert apart(by_hand(pipe, cell), cell) <= 2
    record = read_record(cell.path)
    assert json.loads(metadata["edits"]) == record["edits"]
    assert record["model"] == {"id": metadata["model"], "fingerprint": metadata["fingerprint"]}
    assert metadata["variant"] == VARIANT
    assert metadata["ablate"] == record["versions"]["ablate"]
    lines = export.sentences()
    assert lines[0].startswith(f"{len(export.changed)} tensors (")
    assert any(line.endswith(f"  {export.path.name}") for line in lines)


@pytest.mark.parametrize("changed", [False, True])
def test_units_of_a_study_leave_as_they_were_edited(
    run: Ran, build: Build, tiny: Pipeline, tmp_path: Path, changed: bool
) -> None:
    heads = f"{byhand.ATTENTION}.to_out.0"
    hidden = byhand.ATTENTION.replace("attn1", "ff.net.0.proj")
    count = {m.path: m.channels for m in tiny.catalog}[hidden]
    layers = {"conv_in": ("channels", 16), hidden: ("channels", count), heads: ("heads", 2)}
    statistics = Statistics([Layer("unet", p, *rest) for p, rest in layers.items()], ("cat", "dog"))
    statistics.count[:], statistics.done, statistics.m2[:] = 10, 20, 1.0
    statistics.mean[0], statistics.mean[1] = 1.0, np.random.default_rng(0).random(16 + count + 2)
    statistics.save(tmp_path / "study" / "activations.npz")
    units = {"run": str(tmp_path / "study"), "fraction": 0.5}
    store = run(build(edits=[{"scale": {"units": units, "factor": -1.5}}]))
    baseline, cell = cells(store)
    written = export_variant(store, "scale", changed=changed, pipeline=tiny)
    # Of a projection that attention ends with no head has a bias.
    names = ["conv_in.weight", "conv_in.bias", f"{hidden}.weight", f"{hidden}.bias",
             f"{heads}.weight"]  # fmt: skip
    assert set(written.changed) == {f"unet.{name}" for name in names}
    image = by_hand(execute(written), cell)
    assert apart(image, cell) <= 2
    assert apart(image, baseline) > 2


@pytest.mark.parametrize("changed", [False, True])
def test_a_tied_tensor_is_exported_once_and_is_still_tied(
    run: Ran, tmp_path: Path, changed: bool
) -> None:
    """T5's embedding of tokens belongs to two of its modules."""
    folder = families.save("pixart", tmp_path)
    edits = [
        {"add_noise": {"modules": "shared", "amount": 0.5, "component": "text_encoder"}},
        {"scale": {"modules": "proj_out", "factor": 0.5}},
    ]
    recipe = Recipe.build({
        "version": 1, "name": "tied", "model": str(folder), "dtype": "float32", "edits": edits,
        "sampling": {"num_inference_steps": 2},
    })  # fmt: skip
    pipeline = Pipeline.load(str(folder), device="cpu", dtype="float32")
    store = run(recipe, pipeline)
    export = export_variant(store, "add_noise + scale", changed=changed, pipeline=pipeline)
    assert set(export.changed) == {
        "text_encoder.shared.weight", "transformer.proj_out.weight", "transformer.proj_out.bias",
    }  # fmt: skip
    pipe = execute(export)
    encoder = pipe.text_encoder
    assert torch.equal(encoder.shared.weight, encoder.encoder.embed_tokens.weight)
    baseline, cell = cells(store)
    image = by_hand(pipe, cell, use_resolution_binning=False, clean_caption=False)
    assert apart(image, cell) <= 2
    assert apart(image, baseline) > 2


def test_weights_keep_the_dtype_of_their_run(run: Ran, build: Build, tiny_folder: Path) -> None:
    pipeline = Pipeline.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    store = run(build(edits=EVERYWHERE[2:], dtype="bfloat16"), pipeline)
    folder = export_variant(store, "zero + add_noise", pipeline=pipeline)
    file = export_variant(store, "zero + add_noise", changed=True, pipeline=pipeline)
    for path in (file.path, *(folder.path / name for name in folder.sizes)):
        assert {t.dtype for t in load_file(path).values()} == {torch.bfloat16}
    assert differing(execute(file), execute(folder)) == set()


def test_the_baseline_is_exported_as_it_is(everywhere: Run, tiny: Pipeline) -> None:
    export = export_variant(everywhere, "baseline", pipeline=tiny)
    assert export.changed == ()
    pipe = execute(export)
    assert differing(pipe, tiny.pipe) == set()
    assert apart(by_hand(pipe, cells(everywhere)[0]), cells(everywhere)[0]) <= 2
    assert "as it is, without edits. 0 tensors differ" in (export.path / "README.md").read_text()


def test_no_safety_checker_is_asked_for(
    run: Ran, build: Build, tmp_path: Path, tiny_folder: Path
) -> None:
    """Of a model that has one, which the lab does without."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    del index["requires_safety_checker"]
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    recipe = build(model=str(folder), edits=EVERYWHERE[:1])
    store = run(recipe, Pipeline.load(str(folder), device="cpu", dtype="float32"))
    export = export_variant(store, "mix_noise", device="cpu")
    pipe = DiffusionPipeline.from_pretrained(export.path)
    assert (pipe.safety_checker, pipe.config.requires_safety_checker) == (None, False)
    assert apart(by_hand(pipe, cells(store)[1]), cells(store)[1]) <= 2
    (folder / "added.json").write_text("{}")
    with pytest.raises(ExportError, match=r"is not what it was when the cells of `mix_noise` were"):
        export_variant(store, "mix_noise", tmp_path / "other", device="cpu")
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="there is no folder"):
        export_variant(store, "mix_noise", tmp_path / "other", device="cpu")


def test_the_card_escapes_and_is_short(run: Ran, build: Build, tiny: Pipeline) -> None:
    store = run(build(edits=[{"mix_noise": {"modules": "*", "amount": 0.1}}]))
    record = read_record(cells(store)[1].path)
    record["variant"] = "a `b`\n# <b>c</b>"
    forged = Run(store.folder.parent / "forged")
    forged.write_cells([("odd", cells(store)[1].image(), record, None)])
    forged.write_manifest({**DESCRIBED, "cells": [], "axes": []})
    export = export_variant(forged, str(forged.path("odd")), pipeline=tiny)
    head, title, text = (export.path / "README.md").read_text().split("\n\n", 2)
    assert head == "---\nlibrary_name: diffusers\ntags: [ablate, text-to-image]\n---"
    assert title == "# `tiny`, `` a `b` # <b>c</b> ``"
    paragraph = text.split("\n\n")[0]
    count = len(record["edits"][0]["modules"])
    assert '`mix_noise` (`"amount": 0.1`) on' in paragraph
    assert f"on {count} modules of `unet`, `" in paragraph
    assert f" and {count - 5} more, from perturbation seed 0" in paragraph
    assert len(paragraph) < 1000
    assert str(tiny.model) not in text


# ---------------------------------------------------------------- what is refused


def refused(run: Run, variant: str, pipeline: Pipeline, **options: Any) -> str:
    with pytest.raises(ExportError) as caught:
        export_variant(run, variant, pipeline=pipeline, **options)
    assert not (run.folder / "export").exists()
    return str(caught.value)


def test_what_no_weights_can_hold_is_refused(run: Ran, build: Build, tiny: Pipeline) -> None:
    def one(name: str, **edit: Any) -> Run:
        return run(build(edits=[{"scale": {"factor": 0.5, **edit}}]), folder=name)

    output = one("output", modules="conv_out", where="output")
    assert refused(output, "scale", tiny) == (
        "`scale` cannot be exported: its `scale` edits the output of `conv_out` (where: output),"
        " not weights"
    )
    window = one("window", modules="conv_out", when={"steps": [1, 1]})
    said = refused(window, "scale", tiny)
    assert "its `scale` is for a part of the sampling alone (when: steps 1" in said
    assert said.endswith("; weights are for all")
    nothing = one("nothing", modules="re:attn1.to_k", params="bias")
    assert "leave every tensor as it is" in refused(nothing, "scale", tiny, changed=True)
    assert "edits nothing" in refused(nothing, "baseline", tiny, changed=True)


def test_a_variant_that_is_not_there_is_refused(run: Ran, build: Build, tiny: Pipeline) -> None:
    amounts = {"axes": {"amount": {"values": [0.1, 0.2]}}}
    edits = [{"mix_noise": {"modules": "conv_in", "amount": "$amount"}}]
    store = run(build(edits=edits, **amounts), limit=2)
    assert refused(store, "amount=0.11", tiny) == (
        f"{store.folder} has no variant `amount=0.11`, did you mean `amount=0.1`?; it has"
        " `baseline`, `amount=0.1`, `amount=0.2`"
    )
    assert "no cell of `amount=0.2` is finished" in refused(store, "amount=0.2", tiny)
    with pytest.raises(StoreError, match="cannot be read as a picture"):
        export_variant(store, "none.png", pipeline=tiny)
    with pytest.raises(StoreError, match="is not a run"):
        export_variant(Run(store.folder / "cells"), "amount=0.1", pipeline=tiny)


def test_a_name_of_two_variants_is_refused(run: Ran, build: Build, tiny: Pipeline) -> None:
    amounts = {"axes": {"amount": {"values": [0.1, 0.2]}}}
    edits = [{"mix_noise": {"modules": "conv_in", "amount": "$amount"}}]
    store = run(build(edits=edits, seeds=[0, 1], **amounts))
    manifest = store.manifest()
    for entry in manifest["cells"]:
        entry["variant"] = "same"
    store.write_manifest(manifest)
    assert "give the key or the PNG of a cell" in refused(store, "same", tiny)
    last = list(store.cells())[-1]
    exports = [export_variant(store, name, pipeline=tiny) for name in (last.key, str(last.path))]
    assert [m.replaced for m in exports] == [False, True]
    assert exports[0].path.name == "amount=0.2"


def test_what_is_there_already_is_kept(everywhere: Run, tiny: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first = export_variant(everywhere, VARIANT, out, pipeline=tiny)  # an empty folder is free
    assert not first.replaced
    there = files(out)
    (out / "model_index.json").write_text("broken")
    again = export_variant(everywhere, VARIANT, out, pipeline=tiny)
    assert again.replaced
    assert "an earlier export of the same variant was replaced" in again.sentences()
    assert files(out) == there
    assert differing(execute(again), tiny.pipe) == set(again.changed)
    with pytest.raises(ExportError, match=rf"another variant, `{VARIANT}`".replace("+", r"\+")):
        export_variant(everywhere, "baseline", out, pipeline=tiny)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"an earlier export of this variant, and notes\.txt"):
        export_variant(everywhere, VARIANT, out, pipeline=tiny)
    (out / "ablate.json").unlink()
    with pytest.raises(ExportError, match="is not empty, and is no export of a variant"):
        export_variant(everywhere, VARIANT, out, pipeline=tiny)
    assert (out / "notes.txt").read_text() == "mine"

    file = tmp_path / "some.safetensors"
    assert not export_variant(everywhere, VARIANT, file, changed=True, pipeline=tiny).replaced
    assert export_variant(everywhere, VARIANT, file, changed=True, pipeline=tiny).replaced
    shutil.copy(first.path / "unet/diffusion_pytorch_model.safetensors", file)
    with pytest.raises(ExportError, match="exists and is no export of a variant"):
        export_variant(everywhere, VARIANT, file, changed=True, pipeline=tiny)


def test_an_interrupted_export_leaves_what_was_there(
    everywhere: Run, tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = weights(tiny.pipe)
    out = tmp_path / "exports" / "one"
    monkeypatch.setattr("ablate.engine.export.card", lambda *_: "\ud800")  # cannot be written
    with pytest.raises(UnicodeEncodeError):
        export_variant(everywhere, VARIANT, out, pipeline=tiny)
    assert list(out.parent.iterdir()) == []
    monkeypatch.undo()
    export_variant(everywhere, VARIANT, out, pipeline=tiny)
    there = files(out)
    monkeypatch.setattr(tiny.pipe.vae, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_variant(everywhere, VARIANT, out, pipeline=tiny)
    assert list(out.parent.iterdir()) == [out]
    assert files(out) == there
    after = weights(tiny.pipe)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("amount=0.2, perturbation_seed=3", "amount=0.2-perturbation_seed=3"),
        ("zero + scale", "zero+scale"),
        ("m=down_blocks.*", "m=down_blocks-"),
        ("../../a", "a-"),
        ("...", "variant-"),
        ("x" * 300, "x" * 71 + "-"),
        ("猫/犬", "猫-犬-"),
    ],
)
def test_names_of_files_are_safe_and_distinguish_variants(variant: str, name: str) -> None:
    safe = safe_name(variant)
    assert safe.startswith(name)
    assert len(safe) == len(name) + 8 * name.endswith("-")
    assert safe_name(variant + "*") != safe
