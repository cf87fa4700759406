"""Models from folders, from single files, with LoRAs added, and offloaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ablate.edits.in_place import applied
from ablate.edits.variants import Edit, Variant
from ablate.engine import run as engine
from ablate.models import folders, loading
from ablate.models.catalogs import load_catalog
from ablate.models.errors import ModelError
from ablate.models.files import identify
from ablate.models.source import Lora, Source
from ablate.models.weights import weights_of
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling
from ablate.sweep.binding import plan

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def load(model: str | Source, **options: object) -> Pipeline:
    return Pipeline.load(model, device="cpu", dtype="float32", **options)  # type: ignore[arg-type]


def image(pipeline: Pipeline) -> np.ndarray:
    settings = pipeline.settings(Sampling(num_inference_steps=2))
    return pipeline.sample([Request("a cat", 0)], settings).images


# ---------------------------------------------------------------- single files


def renamed(
    tensors: Mapping[str, Tensor], prefix: str, *names: tuple[str, str]
) -> dict[str, Tensor]:
    """Tensors by the names that the rules, in their order, make of theirs."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = tensor
    return renamed


def denoiser_as_original(folder: Path) -> dict[str, Tensor]:
    """The tensors of the tiny UNet as the code of Stable Diffusion names them."""
    return renamed(
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"),
        "model.diffusion_model.",
        (r"^conv_in", "input_blocks.0.0"),
        (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
        (r"^down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
        (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
        (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"^up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
        (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.1"),
        (r"^up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
        (r"^up_blocks\.1\.attentions\.0", "output_blocks.2.1"),
        (r"^up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
        (r"^up_blocks\.1\.attentions\.1", "output_blocks.3.1"),
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"(blocks?\.[\d.]+)norm1\.", r"\1in_layers.0."),
        (r"(blocks?\.[\d.]+)conv1\.", r"\1in_layers.2."),
        (r"(blocks?\.[\d.]+)norm2\.", r"\1out_layers.0."),
        (r"(blocks?\.[\d.]+)conv2\.", r"\1out_layers.3."),
        (r"time_emb_proj", "emb_layers.1"),
        (r"conv_shortcut", "skip_connection"),
        # Those of transformer blocks, which the rules for residual blocks do not mean.
        (r"(transformer_blocks\.\d\.)in_layers\.0", r"\1norm1"),
        (r"(transformer_blocks\.\d\.)out_layers\.0", r"\1norm2"),
    )


def as_original(folder: Path) -> dict[str, Tensor]:
    """All tensors of the tiny pipeline as the code of Stable Diffusion names them."""
    vae = renamed(
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"),
        "first_stage_model.",
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.0\.resnets", "up.1.block"),
        (r"up_blocks\.1\.resnets", "up.0.block"),
        (r"up_blocks\.0\.upsamplers\.0", "up.1.upsample"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
        (r"group_norm", "norm"),
        (r"to_([qkv])", r"\1"),
        (r"to_out\.0", "proj_out"),
    )
    for name, tensor in vae.items():
        if "attn_1" in name and tensor.ndim == 2:
            vae[name] = tensor[:, :, None, None]
    text = renamed(
        load_file(folder / "text_encoder" / "model.safetensors"),
        "cond_stage_model.transformer.",
        (r"^(text_model\.)?", "text_model."),
    )
    return denoiser_as_original(folder) | vae | text


@pytest.fixture(scope="session")
def single(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny pipeline as one file."""
    file = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file(as_original(tiny_folder), file)
    return str(file)


def test_a_file_makes_the_images_of_its_folder(
    single: str, tiny: Pipeline, tiny_folder: Path
) -> None:
    pipeline = load(single, config=str(tiny_folder))
    assert np.array_equal(image(pipeline), image(tiny))
    assert pipeline.identity == {
        "id": single,
        "config": str(tiny_folder),
        "fingerprint": pipeline.fingerprint,
    }
    assert load_catalog(Source(single, config=str(tiny_folder))) == load_catalog(str(tiny_folder))


def test_a_denoiser_alone_takes_the_rest_from_where_it_is_described(
    tiny: Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = denoiser_as_original(tiny_folder)
    save_file(tensors, tmp_path / "a.safetensors")
    first = load(str(tmp_path / "a.safetensors"), config=str(tiny_folder))
    assert np.array_equal(image(first), image(tiny))
    bias = "model.diffusion_model.out.2.bias"
    save_file(tensors | {bias: tensors[bias] + 1}, tmp_path / "a.safetensors")
    again = Pipeline.load(Source.from_json(first.identity), device="cpu", dtype="float32")
    assert again.fingerprint != first.fingerprint
    assert np.abs(image(again) - image(tiny)).max() > 0.01


@pytest.fixture
def cache(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the configuration of the tiny pipeline, as `some/tiny`; its snapshot."""
    snapshot = tmp_path / "cache" / "models--some--tiny" / "snapshots" / COMMIT
    shutil.copytree(tiny_folder, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot


def test_a_file_is_described_by_the_hub_cache(
    single: str, tiny: Pipeline, cache: Path, lora: Path
) -> None:
    pipeline = load(single, config="some/tiny")
    assert np.array_equal(image(pipeline), image(tiny))
    data = {"id": single, "config": "some/tiny", "revision": COMMIT}
    assert pipeline.identity == data | {"fingerprint": pipeline.fingerprint}
    source, fingerprint = identify(Source.from_json(pipeline.identity))
    assert (source, fingerprint) == (pipeline.source, pipeline.fingerprint)
    shutil.copy(lora / "a.safetensors", cache)
    added = Source(single, config="some/tiny", lora=(Lora("some/tiny", "a.safetensors"),))
    assert identify(added)[0].lora == (Lora("some/tiny", "a.safetensors", revision=COMMIT),)
    with pytest.raises(ModelError, match=r"has no file b\.safetensors|is not in the hub cache"):
        identify(Source(single, config="some/tiny", lora=(Lora("some/tiny", "b.safetensors"),)))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "model.diffusion_model.out.0.bias",
            "lacks weights that its configuration, `.*tiny`, asks",
        ),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "lacks"),
        ("first_stage_model.encoder.conv_in.bias", "lacks weights that its configuration"),
    ],
)
def test_what_a_file_lacks_is_reported(
    tiny_folder: Path, tmp_path: Path, lost: str, message: str
) -> None:
    tensors = as_original(tiny_folder)
    del tensors[lost]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=message):
        load(str(tmp_path / "a.safetensors"), config=str(tiny_folder))


def test_a_part_comes_from_where_the_file_is_described_but_from_no_pickle(
    tiny: Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = as_original(tiny_folder)
    kept = {name: tensor for name, tensor in tensors.items() if "cond_stage" not in name}
    save_file(kept, tmp_path / "a.safetensors")
    pipeline = load(str(tmp_path / "a.safetensors"), config=str(tiny_folder))
    assert np.array_equal(image(pipeline), image(tiny))
    config = tmp_path / "config"
    shutil.copytree(tiny_folder, config, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(tiny_folder / "text_encoder" / "model.safetensors")
    torch.save(weights, config / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*safetensors"):
        load(str(tmp_path / "a.safetensors"), config=str(config))


def test_files_that_are_not_read_are_reported(
    single: str, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "a.safetensors").write_text("nothing of the kind")
    like_v1 = "model.diffusion_model.output_blocks.11.0.skip_connection.weight"
    save_file({like_v1: torch.zeros(1)}, tmp_path / "v1.safetensors")
    for model, config, message in [
        ("a.ckpt", None, r"is a \.ckpt file, which may run code when it is read"),
        ("a.gguf", None, r"is a \.gguf file; give its weights as \.safetensors"),
        ("b.safetensors", None, r"there is no file `.*b\.safetensors`"),
        ("a.safetensors", None, "is no safetensors file, or it was cut off"),
        ("a.safetensors", str(tiny_folder), "is no safetensors file, or it was cut off"),
        (
            "v1.safetensors",
            None,
            "stable-diffusion-v1-5` is not in the hub cache .*`config: FOLDER",
        ),
        ("v1.safetensors", "x/y", "`x/y` is not in the hub cache"),
        ("v1.safetensors", single, "is a file; what describes a model is a folder"),
        (single, None, "does not know .* by its tensors; `config: FOLDER` says what it is"),
        (str(tiny_folder), str(tiny_folder), "contains its configuration"),
    ]:
        with pytest.raises(ModelError, match=message):
            load(str(tmp_path / model), config=config)


def test_a_file_can_be_blended_with(single: str, tiny: Pipeline, tiny_folder: Path) -> None:
    weights = weights_of(Source(single, config=str(tiny_folder)), "unet")
    assert torch.equal(weights["conv_in.weight"], tiny.denoiser.conv_in.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(
        tiny.checkpoint(single, None, QUERY, "weight"),
        tiny.denoiser.get_submodule(QUERY).weight,  # type: ignore[arg-type]
    )
    recipe = {"model": str(tiny_folder), "edits": [
        {"blend": {"modules": "*", "amount": 0.5, "with": single}}]}  # fmt: skip
    file = Path(single).parent / "r.yaml"
    file.write_text(str({"version": 1, "name": "x"} | recipe), encoding="utf-8")
    assert plan(file).recipe.model == str(tiny_folder)


# ---------------------------------------------------------------- variants of weights


def test_a_variant_of_weight_files(tiny_folder: Path, tiny: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "halved"
    shutil.copytree(tiny_folder, folder)
    for file in list(folder.rglob("*.safetensors")):
        halved = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(halved, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
        file.unlink()
    pipeline = load(str(folder), variant="fp16")
    assert 0 < np.abs(image(pipeline) - image(tiny)).max() < 0.02
    assert pipeline.identity["variant"] == "fp16"
    with pytest.raises(ModelError, match="has weights of fp16 only: write `variant: fp16`"):
        load(str(folder))
    both = Source(str(tiny_folder)), Source(str(tiny_folder), variant="fp16")
    assert len({identify(source)[1] for source in both}) == 2


# ---------------------------------------------------------------- LoRAs


@pytest.fixture
def lora(tiny: Pipeline, tmp_path: Path) -> Path:
    """A folder with a LoRA of rank 2 on one projection of the tiny UNet."""
    size = tiny.denoiser.get_submodule(QUERY).weight.shape[0]  # type: ignore[index]
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, size), (size, 2)))
    folder = tmp_path / "lora"
    folder.mkdir()
    tensors = {f"unet.{QUERY}.lora_A.weight": down, f"unet.{QUERY}.lora_B.weight": up}
    save_file(tensors, folder / "a.safetensors")
    return folder


def test_a_lora_is_added_to_the_weights(lora: Path, tiny: Pipeline, tiny_folder: Path) -> None:
    pytest.importorskip("peft")
    added = (Lora(str(lora), scale=0.5), Lora(str(lora / "a.safetensors"), scale=0.25))
    pipeline = load(str(tiny_folder), lora=added)
    down, up = load_file(lora / "a.safetensors").values()
    if down.shape[0] != 2:
        down, up = up, down
    before, after = tiny.denoiser.state_dict(), pipeline.denoiser.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        expected = tensor + 0.75 * up @ down if name == f"{QUERY}.weight" else tensor
        torch.testing.assert_close(after[name], expected)
    assert not any(p.requires_grad for p in pipeline.denoiser.parameters())
    assert pipeline.catalog == tiny.catalog
    assert np.abs(image(pipeline) - image(tiny)).max() > 1e-4
    assert Source.from_json(pipeline.identity).lora == added


def test_fingerprints_distinguish_loras(lora: Path, tiny: Pipeline, tiny_folder: Path) -> None:
    def fingerprint(*loras: Lora) -> str:
        return identify(Source(str(tiny_folder), lora=loras))[1]

    kinds = [(), (Lora(str(lora)),), (Lora(str(lora), scale=0.5),), (Lora(str(lora)),) * 2]
    fingerprints = {fingerprint(*kind) for kind in kinds}
    assert len(fingerprints) == 4
    assert fingerprint() == tiny.fingerprint
    tensors = load_file(lora / "a.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, lora / "a.safetensors")
    assert fingerprint(Lora(str(lora))) not in fingerprints


def test_loras_that_cannot_be_added_are_reported(
    lora: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd.safetensors"
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 4)}, odd)
    cases = [
        (Lora(str(lora), "b.safetensors"), "has no file b.safetensors, did you mean"),
        (Lora(str(tmp_path / "no")), "there is no folder"),
        (Lora("x/y"), "of the LoRA `x/y` is not in the hub cache"),
        (Lora("x/y", "z.bin"), "is no safetensors file"),
    ]
    if folders.find_spec("peft") is not None:
        cases.append((Lora(str(odd)), "odd.safetensors` (fits no module|cannot be added)"))
        for wrong, message in cases:
            with pytest.raises(ModelError, match=message):
                load(str(tiny_folder), lora=[wrong])
    monkeypatch.setattr(folders, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r'needs the package peft: pip install "ablate\[lora\]"'):
        load(str(tiny_folder), lora=[Lora(str(lora))])


# ---------------------------------------------------------------- offloading


def test_offloading_needs_an_accelerator(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="here all run on the CPU, so leave it out"):
        load(str(tiny_folder), offload="model")


def offloaded(folder: Path, pipe: DiffusionPipeline) -> Pipeline:
    source = Source(str(folder), offload="model")
    return Pipeline(pipe, model=source.model, fingerprint="x", source=source)


def test_an_offloaded_pipeline_is_where_it_runs(tiny_folder: Path) -> None:
    pipe = load(str(tiny_folder)).pipe
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload_with_hook(part, execution_device="meta")
    pipeline = offloaded(tiny_folder, pipe)
    assert pipeline.device == torch.device("meta")
    assert {p.device.type for p in pipeline.denoiser.parameters()} == {"cpu"}
    assert not pipeline.edits_by_rows
    assert pipeline.identity == {"id": str(tiny_folder), "fingerprint": "x"}


def test_an_offloaded_pipeline_makes_the_same_images(tiny: Pipeline, tiny_folder: Path) -> None:
    pipe = loading._placed(load(str(tiny_folder)).pipe, torch.device("cpu"), "model")
    assert pipe.unet._hf_hook.execution_device == torch.device("cpu", 0)
    pipeline = offloaded(tiny_folder, pipe)
    assert np.array_equal(image(pipeline), image(tiny))
    recipe = Recipe.build({"version": 1, "name": "x", "model": str(tiny_folder), "edits": [
        {"scale": {"modules": "*", "factor": 0.5}}]})  # fmt: skip
    (cell,) = [c for c in plan(recipe).cells if not c.variant.is_baseline]
    (_, pixels, _), (_, expected, _) = (engine.compute_cell(cell, p) for p in (pipeline, tiny))
    assert np.array_equal(pixels, expected)


def test_edits_survive_networks_that_move(tiny: Pipeline, tiny_folder: Path) -> None:
    edit = Edit.on(tiny.denoiser, "mix_noise", "*", 0.3)

    def images(pipeline: Pipeline) -> np.ndarray:
        with applied(pipeline.denoiser, Variant("v", (edit,))):
            return image(pipeline)

    moving = load(str(tiny_folder))
    before = {name: t.clone() for name, t in moving.denoiser.state_dict().items()}

    def move(module: nn.Module, *_: object) -> None:  # what `.to` another device does
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()

    moving.denoiser.register_forward_pre_hook(move)
    moving.denoiser.register_forward_hook(move)
    assert np.array_equal(images(moving), images(tiny))
    for name, tensor in moving.denoiser.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# ---------------------------------------------------------------- recipes


def test_recipes_say_where_a_model_comes_from(build: Callable[..., Recipe]) -> None:
    recipe = build(
        model="a.safetensors",
        config="x/y",
        variant="fp16",
        lora=["b.safetensors", {"model": "c/d", "weight_name": "e.safetensors", "scale": 0.8}],
        offload="model",
        seeds=[0],
        edits=[{"zero": {"modules": "*"}}],
    )
    loras = Lora("b.safetensors"), Lora("c/d", "e.safetensors", 0.8)
    expected = Source("a.safetensors", None, "fp16", "x/y", loras, "model")
    assert Source.of(recipe) == expected
    assert hash(expected) == hash(Source.of(recipe))
    data = expected.as_json()
    assert data["lora"][0] == {"model": "b.safetensors", "scale": 1.0}
    assert Source.from_json(data) == Source("a.safetensors", None, "fp16", "x/y", loras)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora": "a.safetensors"}, "lora: must be a list of LoRAs, not `a.safetensors`"),
        ({"lora": [3]}, "lora[0]: must be a mapping with model, weight_name, scale, revision,"),
        ({"lora": [{"scale": 1}]}, "lora[0]: `model` is missing"),
        (
            {"lora": [{"model": "a/b", "scal": 1}]},
            "lora[0].scal: unknown key, did you mean `scale`",
        ),
        ({"lora": [{"model": "a/b", "scale": "1"}]}, "lora[0].scale: must be a number, not `1`"),
        ({"offload": "disk"}, "offload: must be `model`, not `disk`"),
        ({"variant": 16}, "variant: must be text, not `16`"),
        ({"config": "x/y"}, "config: describes a model that is one .safetensors file"),
    ],
)
def test_mistakes_about_models_are_reported(
    build: Callable[..., Recipe], keys: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build(edits=[{"zero": {"modules": "*"}}], **keys)
    assert message in str(caught.value)


def test_a_missing_lora_is_reported_with_its_line(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    text = f"version: 1\nname: x\nmodel: {tiny_folder}\nlora:\n  - {tmp_path}/no.safetensors\n"
    file.write_text(text + 'edits: [{zero: {modules: "*"}}]\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"r\.yaml:5: lora\[0\]: there is no file"):
        plan(file)
