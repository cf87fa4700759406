"""Published experiments: each recipe gives what hooks written after its paper give, on a small
network of its family, and has the cells that the paper's network has.

The table of recipes is printed after the tests (`conftest.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byhand import ALIKE, CAT, DOG, edited, shown
from diffusers import DiffusionPipeline
from families import save
from torch import Tensor, nn

from ablate import lab
from ablate.cli.recipes import RECIPES
from ablate.models.catalogs import load_catalog
from ablate.network.components import Networks
from ablate.recipe.recipe import Recipe
from ablate.sweep.binding import plan

CONFIGS = Path(__file__).parent / "data" / "configs"
SEED, GUIDANCE = 3, 5.0
TRAILING = {"timestep_spacing": "trailing"}
SIDES = {"flux": 16, "qwen": 32}  # pixels, where the family's default size is not small
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")

ByHand = Callable[[Any, nn.Module, ExitStack], Iterator[None]]
"""Change the network of a pipeline as a paper does, once for each cell of its recipe, in order;
what is entered on the stack is undone before the next."""


# ---------------------------------------------------------------- after the papers


def inside(network: nn.Module, kind: str) -> list[nn.Module]:
    return [m for m in network.modules() if type(m).__name__.endswith(kind)]


def hook(stack: ExitStack, module: nn.Module, function: Any, **how: Any) -> None:
    stack.callback(module.register_forward_hook(function, **how).remove)


def before(stack: ExitStack, module: nn.Module, function: Any) -> None:
    handle = module.register_forward_pre_hook(function, with_kwargs=True)
    stack.callback(handle.remove)


def other_text(pipe: Any) -> Tensor:
    """The embedding of the other prompt, (tokens, channels)."""
    text: Tensor = pipe.encode_prompt(
        DOG, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0][0]
    return text


def windows_of_cross_attention(pipe: Any, network: nn.Module, stack: ExitStack) -> Iterator[None]:
    """Keys and values of two neighbors are those of the other text, in the row with a text."""
    names = sorted(n for n, _ in network.named_modules() if n.endswith("attn2"))
    text = other_text(pipe)

    def replace(module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        output[1] = text @ module.weight.T
        return output

    for first in range(len(names) - 1):
        for name in names[first : first + 2]:
            for projection in ("to_k", "to_v"):
                hook(stack, network.get_submodule(f"{name}.{projection}"), replace)
        yield


def blocks_of_two_streams(_pipe: Any, network: nn.Module, stack: ExitStack) -> Iterator[None]:
    """Text and image leave a block as they came."""
    for block in inside(network, "TransformerBlock"):

        def bypass(_m: nn.Module, _args: Any, given: Any, _output: Any) -> tuple[Tensor, Tensor]:
            return given["encoder_hidden_states"], given["hidden_states"]

        hook(stack, block, bypass, with_kwargs=True)
        yield


def channel_mean(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.mean(dim=-1, keepdim=True).expand_as(x)


@contextmanager
def forward_replaced(module: Any, forward: Any) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def layers_that_give_means(_pipe: Any, network: Any, stack: ExitStack) -> Iterator[None]:
    for block in network.transformer_blocks:
        for layer in (block.attn1, block.attn2, block.ff):
            stack.enter_context(forward_replaced(layer, channel_mean))
            yield


def more_layers_that_give_means(_pipe: Any, network: Any, stack: ExitStack) -> Iterator[None]:
    for count in range(1, len(network.transformer_blocks) + 1):
        for block in network.transformer_blocks[:count]:
            stack.enter_context(forward_replaced(block.attn1, channel_mean))
        yield


def blocks_that_read_another_text(
    pipe: Any, network: nn.Module, stack: ExitStack
) -> Iterator[None]:
    text = other_text(pipe)

    def inject(_module: nn.Module, args: Any, given: Any) -> Any:
        states = given["encoder_hidden_states"].clone()
        states[1] = text
        return args, given | {"encoder_hidden_states": states}

    for name in in_u_net_order(network):
        before(stack, network.get_submodule(name), inject)
        yield


def blocks_passed_over(_pipe: Any, network: nn.Module, stack: ExitStack) -> Iterator[None]:
    for name in in_u_net_order(network):
        hook(stack, network.get_submodule(name), lambda _module, given, _output: given)
        yield


def in_u_net_order(network: nn.Module) -> Sequence[str]:
    named = dict(network.named_modules())
    return sorted(n for n, m in named.items() if type(m).__name__ == "Transformer2DModel")


def text_off_and_doubled(_pipe: Any, network: nn.Module, stack: ExitStack) -> Iterator[None]:
    for change in (torch.zeros_like, lambda text: 2 * text):
        for block in inside(network, "TransformerBlock"):

            def given_text(_m: nn.Module, args: Any, given: Any, change: Any = change) -> Any:
                return args, given | {
                    "encoder_hidden_states": change(given["encoder_hidden_states"])
                }

            before(stack, block, given_text)
            yield


# ---------------------------------------------------------------- held to them


@dataclass(frozen=True)
class Paper:
    """A recipe, a family to hold it to, and what its paper does there.

    Attributes:
        cells: How many edited cells it has on the small network.
    """

    recipe: str
    family: str
    by_hand: ByHand
    cells: int


PAPERS = [
    Paper("locogen", "sd1", windows_of_cross_attention, 3),
    Paper("stable-flow", "flux", blocks_of_two_streams, 2),
    Paper("dit-ablations", "pixart", layers_that_give_means, 6),
    Paper("dit-ablations-cumulative", "pixart", more_layers_that_give_means, 2),
    Paper("b-lora", "sdxl", blocks_that_read_another_text, 4),
    Paper("mmdit-blocks", "flux", text_off_and_doubled, 4),
]
MORE = [
    Paper("sdxl-turbo-blocks", "sdxl", blocks_passed_over, 4),
    Paper("mmdit-blocks", "sd3", text_off_and_doubled, 4),
    Paper("mmdit-blocks", "qwen", text_off_and_doubled, 4),
    Paper("mmdit-blocks-removed", "sd3", blocks_of_two_streams, 2),
]


def cases() -> Iterator[Any]:
    for paper in (*PAPERS, *MORE):
        marks = [pytest.mark.slow] if paper in MORE else []
        yield pytest.param(paper, id=f"{paper.recipe}-{paper.family}", marks=marks)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's small pipeline, built once."""
    root = tmp_path_factory.mktemp("papers")

    def get(name: str) -> Path:
        return root / name if (root / name).exists() else save(name, root)

    return get


def file_of(name: str) -> Path:
    return RECIPES / "papers" / f"{name}.yaml"


def image(pipe: Any, family: str, recipe: Recipe) -> np.ndarray:
    """What a script of diffusers gets: float, shape (height, width, 3)."""
    options: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False}
    sampling = recipe.sampling
    guidance = {"guidance_scale": sampling.guidance_scale}
    if family == "qwen":
        guidance = {"true_cfg_scale": sampling.guidance_scale, "negative_prompt": ""}
    options |= guidance | {"width": sampling.width, "height": sampling.height}
    takes = inspect.signature(type(pipe).__call__).parameters
    found: np.ndarray = pipe(
        prompt=recipe.prompts[0],
        num_inference_steps=sampling.num_inference_steps,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        **{name: value for name, value in options.items() if name in takes},
    ).images[0]
    return found


@pytest.mark.parametrize("paper", list(cases()))
def test_a_recipe_gives_what_its_paper_does(
    paper: Paper,
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    without_report: None,
    record_property: Callable[[str, object], None],
) -> None:
    folder = folder_of(paper.family)
    changes: dict[str, Any] = {"model": str(folder), "dtype": "float32", "prompts": [CAT]}
    changes |= {"seeds": [SEED]}
    if paper.recipe == "sdxl-turbo-blocks":  # in one step, from noise alone as Turbo's scheduler
        changes["sampling.scheduler"] = {"name": "euler_discrete", **TRAILING}
    else:
        changes |= {"sampling.num_inference_steps": 2, "sampling.guidance_scale": GUIDANCE}
    side = SIDES.get(paper.family)
    changes |= {"sampling.width": side, "sampling.height": side} if side else {}
    if "resample" in file_of(paper.recipe).read_text():
        changes["edits.0.resample.over.prompts"] = [DOG]
    planned = plan(file_of(paper.recipe), overrides=changes)
    result = lab.run(planned, tmp_path / "run", device="cpu")
    cells = edited(result)
    assert len(cells) == paper.cells
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    if paper.recipe == "sdxl-turbo-blocks":
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **TRAILING)
    network = getattr(pipe, "unet", None) or pipe.transformer
    plain = image(pipe, paper.family, planned.recipe)
    far, apart = [], []
    with ExitStack() as stack:
        changing = paper.by_hand(pipe, network, stack)
        for cell, _ in zip(cells, changing, strict=True):
            expected = image(pipe, paper.family, planned.recipe)
            stack.close()
            far.append(float(np.abs(shown(cell) - expected).max()))
            apart.append(float(np.abs(expected - plain).max()))
    levels = f"{255 * max(far):.1f} (effect {255 * min(apart):.0f} to {255 * max(apart):.0f})"
    record_property("paper", (paper.recipe, paper.family, len(cells), levels))
    assert max(far) <= ALIKE
    assert max(apart) > ALIKE


# ---------------------------------------------------------------- on the papers' networks


@pytest.mark.parametrize(
    ("recipe", "network", "values"),
    [
        ("locogen", "sd15-random", 15),  # windows of 2 of 16 layers
        ("stable-flow", "flux1-dev", 57),
        ("dit-ablations", "pixart-sigma", 3 * 28),
        ("dit-ablations-cumulative", "pixart-sigma", 28),
        ("mmdit-blocks", "flux1-dev", 57),
        pytest.param("b-lora", "sdxl", 11, marks=pytest.mark.slow),
        pytest.param("sdxl-turbo-blocks", "sdxl", 11, marks=pytest.mark.slow),
        pytest.param("mmdit-blocks", "sd35-medium", 24, marks=pytest.mark.slow),
        pytest.param("mmdit-blocks", "qwen-image", 60, marks=pytest.mark.slow),
        pytest.param("mmdit-blocks-removed", "sd35-medium", 24, marks=pytest.mark.slow),
    ],
)
def test_a_recipe_has_the_cells_of_its_paper(recipe: str, network: str, values: int) -> None:
    source = str(CONFIGS / network) if (CONFIGS / network).exists() else network
    kept = Recipe.load(file_of(recipe))
    assert kept.name == recipe
    assert kept.model.count("/") == 1
    networks = Networks(load_catalog(source), "unet" if "sd" in network[:2] else "transformer")
    planned = plan(kept, networks)
    assert len(planned.axes[-1].values) == values
    assert len(planned.variants) - 1 == values * (2 if recipe == "mmdit-blocks" else 1)
