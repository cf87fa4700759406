"""Folders of strangers: a sentence and an exit code, whatever their files contain."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hostile import DAMAGES, HARMLESS, LOADED, PARTS

from ablate.cli.main import main
from ablate.edits import Edit, Variant, applied
from ablate.network import ScopeError

RECIPE = """version: 1
name: hostile
model: {model}
dtype: float32
prompts: [a cat]
seeds: [0]
sampling: {{num_inference_steps: 1}}
edits: [{{zero: {{modules: "mid_block.*"}}}}]
"""


def ablate(*arguments: object) -> tuple[int, str]:
    """Run a command; errors that are no answer to the user are raised."""
    began = time.perf_counter()
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert time.perf_counter() - began < 5
    assert len(done.output) < 2000
    return done.exit_code, done.output


def damaged(name: str, sound: Path, folder: Path) -> Path:
    """The recipe of a model that is a damaged copy of a sound one."""
    shutil.copytree(sound, folder / "model")
    DAMAGES[name](folder / "model")
    recipe = folder / "r.yaml"
    recipe.write_text(RECIPE.format(model=folder / "model"), encoding="utf-8")
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_commands_answer_in_a_sentence(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = damaged(name, tiny_folder, tmp_path)
    codes = {}
    for command in ("check", "plan", "run"):
        more = ("--out", tmp_path / "run", "--device", "cpu") if command == "run" else ()
        codes[command], output = ablate(command, recipe, *more)
        assert codes[command] in (0, 1, 2), output
    expected = 0 if name in HARMLESS else 2
    assert codes["run"] == expected, output
    if name not in LOADED:
        assert codes["check"] == codes["plan"] == expected, output
        first = name.split()[0].partition("/")[0]
        where = "model" if first == "index" else PARTS.get(first, first)
        assert not expected or where in output


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "unet in_channels",
            "unet/config.json: `in_channels` is 1,000,000,000; 262,144 is the most",
        ),
        ("unet transformer_layers_per_block", "`transformer_layers_per_block` is 1,000,000; 64"),
        ("unet/config.json nested", "config.json is not JSON"),
        ("pipeline os", "`_class_name` is `os`, no pipeline of diffusers"),
        ("unet class ['os', 'system']", "`unet` is of `os`; code beside a model is not run"),
        ("quantized bitsandbytes", "config.json has a `quantization_config`"),
        ("unet cut off", "safetensors has "),
        ("unet a pipe", "safetensors is no regular file"),
        ("unet a link out", "is a link out of the folder"),
        ("unet a tensor missing", "lacks 1 tensor that the configuration of `unet` asks for"),
        ("vae another shape", "the configuration of `vae` asks for"),
        ("text_encoder scaled", "contains scaled or quantized weights"),
        ("unet packed", "of packed numbers (U8)"),
        ("index of another folder", "must be the name of a file beside it"),
        ("vae class x", "`vae` must be the names of a library and a class, not x"),
        ("unet a link out", "put a copy of `/etc/hostname` in its place"),
        ("tokenizer cut off", "tokenizer/tokenizer.json is not JSON"),
        ("tokenizer no vocabulary", "tokenizer.json: its vocabulary, `model.vocab`, is empty"),
        ("tokenizer garbage merges", "tokenizer.json: `a` in `model.merges` is no pair of texts"),
        ("tokenizer without files", "tokenizer` has no vocabulary, such as a tokenizer.json"),
        ("index missing", "has no model_index.json; it is no diffusers pipeline"),
    ],
)
def test_check_says_what_is_wrong(
    name: str, sentence: str, tiny_folder: Path, tmp_path: Path
) -> None:
    code, output = ablate("check", damaged(name, tiny_folder, tmp_path))
    assert code == 2
    assert sentence in output.replace("\n", " ")
    assert str(tmp_path / "model") in output


def test_weights_of_no_number_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = damaged("vae NaN", tiny_folder, tmp_path)
    code, output = ablate("run", recipe, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 2
    assert "the `vae` of" in output
    assert "has NaN or infinity in `" in output


@pytest.mark.parametrize("model", ["./tinny", "a/b/tinny", "tinny/"])
def test_a_mistyped_folder_is_no_hub_problem(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b" / "tiny").mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.format(model=model), encoding="utf-8")
    code, output = ablate("check", "r.yaml")
    assert code == 2
    assert f"there is no folder `{model}`, did you mean `" in output
    assert "hub" not in output


def test_packed_parameters_are_not_edited() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    packed = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.uint8), requires_grad=False)
    network[0].weight = packed
    variant = Variant("x", (Edit.on(network, "zero", "0"),))
    with pytest.raises(ScopeError, match=r"`0\.weight` holds packed or quantized numbers"):
        applied(network, variant).__enter__()
    assert network[0].weight.all()
