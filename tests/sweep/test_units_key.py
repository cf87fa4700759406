"""Units that a study found, named by edits: which they are, what zeroing them does, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from byhand import ATTENTION, BLOCK, CONV, edited, hooked, image, same, shown
from torch import Tensor, nn

from ablate import lab
from ablate.engine.replay import replay_cell
from ablate.network.slices import Unit
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.recipe.schema import recipe_schema
from ablate.sampling.pipeline import Pipeline
from ablate.store.activations import Layer, Statistics
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
FIRST = "conv_in"  # 16 channels
# How much each unit is driven by anything but a cat: the less, the more selective for cats it is.
REST = [0.5, 0.1, 0.9, 0.1, 0.6, 0.7, 0.8, 0.3, 0.9, 0.9, 0.95, 0.9, 0.2, 0.9, 0.9, 0.4]
MOST = [1, 3, 12, 7, 15, 0, 4, 5, 6, 2, 8, 9, 11, 13, 14, 10]  # equal ones by number
LEAST = [10, 2, 8, 9, 11, 13, 14, 6, 5, 4, 0, 15, 7, 12, 1, 3]


def study(
    folder: Path, layers: Sequence[tuple[str, str, Sequence[float]]], component: str = "unet"
) -> Path:
    """A study of two concepts: path, kind, and a number for each unit, as in `REST`."""
    made = Statistics(
        [Layer(component, path, kind, len(rest)) for path, kind, rest in layers], ("cat", "dog")
    )
    made.count[:] = 10
    made.done = 20
    made.mean[0], made.mean[1] = 1.0, np.concatenate([rest for *_, rest in layers])
    made.m2[:] = 1.0
    made.save(folder / "activations.npz")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A study of two modules, of 16 channels each."""
    layers = [(FIRST, "channels", REST), (CONV, "channels", REST[::-1])]
    return study(tmp_path / "study", layers)


def zeroed(run: Path, where: str = "output", **units: Any) -> list[dict[str, Any]]:
    return [{"zero": {"units": {"run": str(run), **units}, "where": where}}]


def units_of(recipe: Recipe) -> list[dict[str, tuple[int, ...]]]:
    """What the variants edit, by module path."""
    return [
        {edit.modules[0]: edit.unit.numbers for edit in variant.edits if edit.unit is not None}
        for variant in plan(recipe).variants
        if variant.edits
    ]


# ---------------------------------------------------------------- which units


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"fraction": 0.25}, MOST[:4]),
        ({"fraction": 0.25, "order": "least"}, LEAST[:4]),
        ({"fraction": 0.1}, MOST[:2]),  # of 1.6, rounded
        ({"fraction": 0.09}, MOST[:1]),  # of 1.44
        ({"fraction": 1.0}, range(16)),
        ({"count": 3}, MOST[:3]),
        ({"count": 4, "order": "least"}, LEAST[:4]),
        ({"fraction": 0.25, "concept": "cat"}, MOST[:4]),
        ({"fraction": 0.25, "concept": "dog"}, LEAST[:4]),
        ({"fraction": 0.25, "concept": "dog", "order": "least"}, MOST[:4]),
    ],
)
def test_the_share_or_number_asked_for_in_the_order_asked_for(
    units: dict[str, Any], expected: Sequence[int], tmp_path: Path, build: Build
) -> None:
    run = study(tmp_path / "study", [(FIRST, "channels", REST)])
    (found,) = units_of(build(edits=zeroed(run, **units)))
    assert found == {FIRST: tuple(sorted(expected))}


def test_a_share_is_of_each_module_and_a_number_of_all_together(two: Path, build: Build) -> None:
    (shares,) = units_of(build(edits=zeroed(two, fraction=0.125)))
    assert shares == {FIRST: (1, 3), CONV: (12, 14)}
    (count,) = units_of(build(edits=zeroed(two, count=3)))
    assert count == {FIRST: (1, 3), CONV: (12,)}
    (narrow,) = units_of(build(edits=zeroed(two, fraction=0.125, modules="stage=up")))
    assert narrow == {CONV: (12, 14)}


def test_random_units_hang_on_the_seed_and_their_module_alone(
    two: Path, tmp_path: Path, build: Build
) -> None:
    asked = {"order": "random", "fraction": 0.5}
    (found,) = units_of(build(edits=zeroed(two, **asked)))
    (again,) = units_of(build(edits=zeroed(two, **asked)))
    alone = study(tmp_path / "alone", [(CONV, "channels", REST)])
    (one,) = units_of(build(edits=zeroed(alone, **asked)))
    (other,) = units_of(build(edits=zeroed(two, **asked, seed=1)))
    assert found == again
    assert one[CONV] == found[CONV] != found[FIRST]
    assert other[CONV] != found[CONV]
    assert len(found[CONV]) == len(found[FIRST]) == 8


def test_settings_may_be_axes_and_none_is_the_baseline(two: Path, build: Build) -> None:
    axes = {"order": {"values": ["most", "least"]}, "fraction": {"values": [0, 0.02, 0.25]}}
    planned = plan(build(axes=axes, edits=zeroed(two, order="$order", fraction="$fraction")))
    # A fiftieth of 16 is none as well.
    assert [cell.variant.is_baseline for cell in planned.cells] == [True, True, False] * 2
    assert len(planned.distinct()) == 3
    numbers = {
        "order": {"values": ["random"]},
        "concept": {"values": ["cat", "dog"]},
        "count": {"values": [0, 4]},
        "seed_of": {"values": [0, 1]},
    }
    edits = zeroed(two, order="$order", concept="$concept", count="$count", seed="$seed_of")
    assert len({tuple(v.items()) for v in units_of(build(axes=numbers, edits=edits))}) == 2


# ---------------------------------------------------------------- what becomes of them


def silencing(channels: Sequence[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def silence(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        output[:, list(channels)] = 0
        return output

    return silence


def test_zeroed_channels_are_those_of_hooks_by_hand(
    two: Path, run: RunIt, build: Build, plain: Any
) -> None:
    axes = {"share": {"values": [0.125, 0.5]}}
    cells = edited(run(build(axes=axes, edits=zeroed(two, fraction="$share"))))
    for cell, count in zip(cells, (2, 8), strict=True):
        with ExitStack() as stack:
            for path, channels in (
                (FIRST, MOST[:count]),
                (CONV, np.argsort(REST[::-1], kind="stable")[:count].tolist()),
            ):
                stack.enter_context(hooked(plain.unet, path, silencing(channels)))
            assert same(cell, image(plain))
        assert not same(cell, image(plain))


def test_zeroed_heads_are_those_of_hooks_by_hand(
    run: RunIt, build: Build, plain: Any, tmp_path: Path
) -> None:
    folder = study(tmp_path / "heads", [(ATTENTION, "heads", [0.5, 0.1])])
    (cell,) = edited(run(build(edits=zeroed(folder, count=1))))
    layer = plain.unet.get_submodule(ATTENTION)
    size = layer.to_out[0].in_features // layer.heads

    def silence(_module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        states = given[0].clone()
        states[..., size:] = 0
        return (states,)

    handle = layer.to_out[0].register_forward_pre_hook(silence)
    expected = image(plain)
    handle.remove()
    assert same(cell, expected)
    assert not same(cell, image(plain))


def test_units_of_many_variants_in_one_batch_are_as_alone(
    two: Path, run: RunIt, build: Build
) -> None:
    axes = {"order": {"values": ["most", "least", "random"]}, "share": {"values": [0.1, 0.4]}}
    units = {"run": str(two), "order": "$order", "fraction": "$share"}
    edit = {"scale": {"units": units, "factor": -1.5, "where": "output"}}
    recipe = build(axes=axes, edits=[edit])
    together, alone = run(recipe, "a", batch_size=8), run(recipe, "b", batch_size=1)
    assert together.summary.batch_size > 1
    for one, other in zip(together, alone, strict=True):
        assert same(one, shown(other))


def test_units_of_another_component(run: RunIt, build: Build, plain: Any, tmp_path: Path) -> None:
    path = "text_model.encoder.layers.0.mlp.fc1"
    if not any(name == path for name, _ in plain.text_encoder.named_modules()):
        path = "encoder.layers.0.mlp.fc1"  # as newer releases of transformers have it
    folder = study(tmp_path / "text", [(path, "channels", REST * 4)], "text_encoder")
    (edit,) = zeroed(folder, count=20)
    edit["zero"]["component"] = "text_encoder"
    (cell,) = edited(run(build(edits=[edit])))
    first = np.argsort(REST * 4, kind="stable")[:20].tolist()

    def silence(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        output[..., first] = 0
        return output

    with hooked(plain.text_encoder, path, silence):
        assert same(cell, image(plain))
    assert not same(cell, image(plain))


def test_weights_of_units_are_edited_by_the_same_key(two: Path, build: Build) -> None:
    (variant,) = plan(build(edits=zeroed(two, "weights", count=2))).variants[1:]
    assert [(e.where, e.modules, e.unit) for e in variant.edits] == [
        ("weights", (FIRST,), Unit("channels", (1, 3)))
    ]


def test_a_variant_is_named_by_the_edits_of_the_recipe(two: Path, build: Build) -> None:
    edits = [*zeroed(two, count=20), {"scale": {"modules": CONV, "factor": 2}}]
    _, variant = plan(build(edits=edits)).variants
    assert (variant.name, len(variant.edits)) == ("zero + scale", 3)


def test_a_cell_is_made_again_without_the_study(
    two: Path, run: RunIt, build: Build, tiny: Pipeline
) -> None:
    (cell,) = edited(run(build(edits=zeroed(two, fraction=0.25))))
    (two / "activations.npz").unlink()
    again = replay_cell(cell.path, tiny)
    assert (again.difference, again.same_key) == (0, True)


# ---------------------------------------------------------------- mistakes


UNITS = "version: 1\nname: x\nedits:\n  - zero:\n      where: output\n      units: "


def test_nothing_stands_for_a_concept_of_one_sample(two: Path, build: Build) -> None:
    known = Statistics.load(two / "activations.npz")
    known.count[:], known.done = 1, 2
    known.save(two / "activations.npz")
    with pytest.raises(RecipeError, match="one sample a concept: no spread to measure contrast in"):
        plan(build(edits=zeroed(two, count=2, concept="cat")))
    assert plan(build(edits=zeroed(two, count=2))).variants  # by selectivity


@pytest.mark.parametrize(
    ("units", "message", "static"),
    [
        ("{run: RUN, fraction: 0.1, count: 3}",
         "6: edits[0].zero.units: must have exactly one of fraction, count; this has fraction and"
         " count", True),
        ("{run: RUN}",
         "6: edits[0].zero.units: must have exactly one of fraction, count; this has none", True),
        ("{fraction: 0.1}",
         "6: edits[0].zero.units: `run` is missing: the folder of a study of units", True),
        ("{run: RUN, fraction: 1.5}",
         "6: edits[0].zero.units.fraction: must be at most 1, not `1.5`", True),
        ("{run: RUN, fraction: 0.1, order: mots}",
         "6: edits[0].zero.units.order: must be one of most, least, random, not `mots`, did you"
         " mean `most`?", True),
        ("{run: RUN, fraction: 0.1, ordr: most}",
         "6: edits[0].zero.units.ordr: unknown key, did you mean `order`?", True),
        ("{run: RUN, fraction: 0.1, seed: 3}",
         "6: edits[0].zero.units.seed: `seed` goes with `order: random`", False),
        ("{run: RUN, fraction: 0.1}\n      modules: conv_in",
         "7: edits[0].zero.modules: is given beside `units`, which choose modules and units; keep"
         " one", True),
        ("{run: RUN, fraction: 0.1}\n      unit: {channels: 0}",
         "7: edits[0].zero.unit: is given beside `units`, which choose modules and units; keep"
         " one", True),
        ("{run: gone, fraction: 0.1}",
         "6: edits[0].zero.units.run: there is no gone/activations.npz", False),
        ("{run: RUN, fraction: 0.1, concept: dgo}",
         "6: edits[0].zero.units.concept: RUN has no concept `dgo`, did you mean `dog`?", False),
        ("{run: RUN, count: 33}",
         "6: edits[0].zero.units.count: asks for 33 units; there are 32", False),
        ("{run: RUN, fraction: 0.1, modules: mid*}",
         "6: edits[0].zero.units.modules: RUN has units of none of these; it has those of `conv_in`"
         " and 1 more", False),
        ("{run: RUN, fraction: 0.1, modules: nowhere*}",
         "6: edits[0].zero.units.modules: `nowhere*` matches no module", False),
        ("{run: RUN, fraction: $f}",
         "6: edits[0].zero.units.fraction: there is no axis `f`; define it under `axes`", False),
        ("{run: RUN, fraction: $f}\naxes: {f: {values: [0, 2]}}",
         "7: axes.f.values[1]: must be at most 1, not `2`", False),
        ("{run: RUN, fraction: 0.1, concept: $c}\naxes: {c: {values: [cat, cow]}}",
         "7: axes.c.values[1]: RUN has no concept `cow`", False),
        ("{run: $r, fraction: 0.1}\naxes: {r: {values: [x]}}",
         "6: edits[0].zero.units.run: an axis cannot be given here, as `$r` is", False),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_stand(
    units: str, message: str, static: bool, two: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    text = (UNITS + units).replace("RUN", str(two))
    file.write_text(text + f"\nmodel: {tiny_folder}\n")
    with pytest.raises(RecipeError) as error:
        plan(file)
    problems = error.value.problems
    told = f"{file}:{message.replace('RUN', str(two))}"
    assert [str(p) for p in problems if str(p).startswith(told)], problems
    assert (
        jsonschema.Draft202012Validator(recipe_schema()).is_valid(yaml.safe_load(text))
        is not static
    )


def test_all_mistakes_of_studies_are_told_beside_any_others(
    two: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    lines = [
        "{run: gone, count: 1}",
        "{run: RUN, count: 1, concept: cow}",
        "{run: RUN, count: 1, modules: [conv_in, mid*]}",
        "{run: RUN, count: $n}",
        "{run: RUN, count: 1}, component: vea",
    ]
    edits = [f"  - zero: {{where: output, units: {line}}}\n" for line in lines]
    text = f"version: 1\nname: x\nmodel: {tiny_folder}\nsampling: {{width: 20}}\nedits:\n"
    text += "".join(edits) + "  - zero: {modules: nowhere}\naxes: {n: {values: [1, 40]}}\n"
    file = tmp_path / "r.yaml"
    file.write_text(text.replace("RUN", str(two)))
    with pytest.raises(RecipeError) as error:
        plan(file)
    problems = error.value.problems
    told = [str(p).removeprefix(f"{file}:").replace(str(two), "RUN") for p in problems]
    expected = [
        "4: sampling.width: must be a multiple of 8, not `20`",
        "6: edits[0].zero.units.run: there is no gone/activations.npz",
        "7: edits[1].zero.units.concept: RUN has no concept `cow`",
        "8: edits[2].zero.units.modules: RUN has units of none of `mid*`; it has those of",
        "10: edits[4].zero.component: ",
        "11: edits[5].zero.modules: `nowhere` matches no module",
        "12: axes.n.values[1]: asks for 40 units; there are 32",
    ]
    assert len(told) == len(expected), told
    for one, start in zip(told, expected, strict=True):
        assert one.startswith(start), one


@pytest.mark.parametrize(
    ("units", "values"),
    [("{run: RUN, count: 1, concept: $w}", "[1, cat]"), ("{run: $w, count: 1}", "[gone, cat]")],
)
def test_what_cannot_be_read_is_told_once(
    units: str, values: str, two: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    text = f"{UNITS}{units}\naxes: {{w: {{values: {values}}}}}\nmodel: {tiny_folder}\n"
    file.write_text(text.replace("RUN", str(two)))
    with pytest.raises(RecipeError) as error:
        plan(file)
    problems = error.value.problems
    assert len(problems) == 1, problems


def test_a_study_is_read_once_until_it_is_another(
    two: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = Statistics.load, list[Path]()

    def load(path: Path, whole: bool) -> Statistics:
        read.append(path)
        return real(path, whole)

    monkeypatch.setattr(Statistics, "load", load)
    recipe = build(edits=[*zeroed(two, count=1), *zeroed(two, count=2)])
    units_of(recipe)
    before = units_of(recipe)
    assert len(read) == 1
    study(two, [(FIRST, "channels", REST[::-1]), (CONV, "channels", REST)])
    assert units_of(recipe) != before


STUDIES: dict[str, tuple[Mapping[str, Any], str]] = {
    "of another component": (
        {"layers": [("a", "channels", [1])], "component": "text_encoder"},
        "units of text_encoder, not of unet; `component: text_encoder` edits those",
    ),
    "of the reader": (
        {"layers": [("a", "channels", [1])], "component": "clip"},
        "only units of the CLIP model that reads images, which no recipe edits",
    ),
    "of another model": (
        {"layers": [("conv_on", "channels", [1])]},
        "`conv_on` is no module of this model, did you mean `conv_in`?",
    ),
    "of a wider model": (
        {"layers": [(FIRST, "channels", [1] * 32)]},
        "`conv_in` has 32 channels there and 16 in this model; was it of another one?",
    ),
    "of a block": (
        {"layers": [(BLOCK, "channels", [1] * 32)]},
        f"`{BLOCK}` is a block, which has no weights; add `where: output`",
    ),
}


@pytest.mark.parametrize(("made", "message"), STUDIES.values(), ids=STUDIES)
def test_studies_of_another_network(
    made: dict[str, Any], message: str, tmp_path: Path, build: Build
) -> None:
    folder = study(tmp_path / "study", **made)
    with pytest.raises(RecipeError) as error:
        plan(build(edits=zeroed(folder, "weights", count=1)))
    assert str(error.value).startswith("edits[0].zero.units.run: ")
    assert message in str(error.value)


def test_a_study_that_stopped_halfway_is_not_used(tmp_path: Path, build: Build) -> None:
    folder = study(tmp_path / "study", [(FIRST, "channels", REST)])
    part = Statistics.load(folder / "activations.npz")
    part.total = 80
    part.save(folder / "activations.npz")
    with pytest.raises(RecipeError, match=r"run: .* has 20 of 80 samples; run `ablate units") as e:
        plan(build(edits=zeroed(folder, count=1)))
    assert str(e.value).startswith("edits[0].zero.units.run: ")
    part.total = None  # as files of earlier versions have it
    part.save(folder / "activations.npz")
    assert units_of(build(edits=zeroed(folder, count=1)))


def test_the_schema_knows_the_key(two: Path) -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    head = {"version": 1, "name": "x"}
    units = {"order": "$o", "concept": "cat", "count": "$n", "seed": 2, "modules": ["up*"]}
    validator.validate(head | {"edits": zeroed(two, **units)})
    validator.validate(head | {"edits": zeroed(two, fraction=0.5)})
    partner = {"swap": {"units": {"run": "x", "count": 1}, "with": "up*"}}
    assert not validator.is_valid(head | {"edits": [partner]})
