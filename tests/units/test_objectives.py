"""Objectives: their arithmetic against sums by hand, their text, and messages for wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.cli.main import main
from ablate.units.visualize.expressions import parse_objective
from ablate.units.visualize.objectives import (
    Objective,
    ObjectiveError,
    channel,
    check,
    cosine,
    deepdream,
    direction,
    diversity,
    head,
    neuron,
    output_hooks,
    signed,
    text,
)

A = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
B = torch.randn(3, 7, 17, generator=torch.Generator().manual_seed(1))
OUTPUTS = {"a": A, "b.2.fc1": B, "pooled": B[..., 0]}
PATCHED = B[:, 3, 1:].reshape(3, 4, 4)  # after a class token
ACTIVE = A.relu().mean((2, 3)), B.relu().mean(2)


def cosines(values: Tensor, vector: Tensor) -> Tensor:
    return (values * vector).sum(-1) / values.norm(dim=-1) / vector.norm(dim=-1)


V = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0])
MEAN = A.mean((2, 3))
GRAM = F.normalize((A.flatten(2) @ A.flatten(2).mT).flatten(1), dim=1)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (channel("a", 3), ACTIVE[0][:, 3]),
        (channel("pooled", 2), B[:, 2, 0].relu()),
        (signed("b.2.fc1", 6), B[:, 6].mean(1)),
        (channel("a", 3) - 0.1 * channel("b.2.fc1", 5), ACTIVE[0][:, 3] - 0.1 * ACTIVE[1][:, 5]),
        (-(channel("a", 3) + 2) / 4, -(ACTIVE[0][:, 3] + 2) / 4),
        (3 - channel("a", 0), 3 - ACTIVE[0][:, 0]),
        (sum([signed("a", 0), signed("a", 1)]), MEAN[:, 0] + MEAN[:, 1]),
        (channel("a", 1) - (signed("a", 2) - signed("a", 3)) * 2,
         ACTIVE[0][:, 1] - (MEAN[:, 2] - MEAN[:, 3]) * 2),
        (neuron("a", 4), A[:, 4, 2, 3]),
        (neuron("a", 4, 0, 5), A[:, 4, 0, 5]),
        (neuron("b.2.fc1", 3), PATCHED[:, 2, 2]),
        (neuron("b.2.fc1", 3, 0, 1), PATCHED[:, 0, 1]),
        (neuron("b.2.fc1", 3, 0), B[:, 3, 0]),
        (deepdream("a"), A.square().mean((1, 2, 3))),
        (direction("a", V, power=2), MEAN @ V * cosines(MEAN, V).clamp_min(0.1) ** 2),
        (direction("a", torch.stack([V, -V, V]), power=0),
         (MEAN * torch.stack([V, -V, V])).sum(1)),
        (cosine("a", V), cosines(MEAN, V)),
        (diversity("a"), -((GRAM @ GRAM.T).sum(1) - 1) / 2),
    ],
)  # fmt: skip
def test_values_are_those_by_hand(objective: Objective, expected: Tensor) -> None:
    computed = objective(OUTPUTS)
    assert computed.shape == (3,)
    torch.testing.assert_close(computed, expected)
    if not any(word in objective.text for word in ("direction", "cosine")):
        torch.testing.assert_close(parse_objective(objective.text)(OUTPUTS), expected)


def test_a_silent_channel_can_be_activated() -> None:
    values = torch.full((1, 1, 2, 2), -1.0, requires_grad=True)
    value = channel("a", 0)({"a": values})
    value.sum().backward()
    assert value.item() == 0
    assert values.grad is not None
    assert (values.grad > 0).all()


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("a#3", "a#3"),
        ("b.2.fc1#12 - 0.5 * b.2.fc1#3", "b.2.fc1#12 - 0.5 * b.2.fc1#3"),
        ("-a#1", "-1 * a#1"),
        ("2*(a#1 + neuron('x#1', n=2, y=3))/4", "0.25 * (2 * (a#1 + neuron('x#1', 2, 3)))"),
        ("a#1 - (a#2 - 1)", "a#1 - (a#2 - 1)"),
        ("head(\"attn.to_q\", 1)", "head('attn.to_q', 1)"),
        ("neuron('a', 1, x=2)", "neuron('a', 1, x=2)"),
        ("0.123456789 * a#01", "0.123456789 * a#1"),
        ("é.2#1", "é.2#1"),
    ],
)  # fmt: skip
def test_text_is_read(written: str, text: str) -> None:
    parsed = parse_objective(written)
    assert parsed.text == text
    assert parse_objective(parsed.text).text == text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "an objective is needed, such as `visual_projection#3`; this one is empty"),
        ("a#", "`a#` is to be followed by a unit's number, as in `a#3`"),
        ("a#1 # - b#2", "there is no module path before `#`; write `PATH#3`"),
        ("a#1 #2", "there is no module path before `#2`"),
        ("a#-1", "units are numbered from 0, and `a` has none numbered -1"),
        ("a #3", "write `a#3`, without the blank"),
        ("-" * 5000 + "a#1", "is too long: an objective has at most 200 of"),
        ("a#1" + " + a#1" * 201, "is too long"),
        ("a#1 -", "`a#1 -` is no objective; write `PATH#3"),
        ("nuron('a', 1)", "there is no `nuron`, did you mean `neuron`"),
        ("a.b", "`a.b` alone is no objective; write `a.b#3` for unit 3"),
        ("3 + 4", "`3 \\+ 4` is a number, where an objective is needed"),
        ("a#1 * a#2", "^`a#1 \\* a#2`: two objectives cannot be multiplied"),
        ("1 + (a.b#1 / 0)", "^`a.b#1 / 0`: nothing can be divided by 0"),
        ("1 / a#1", "nothing can be divided by an objective"),
        ("a#1 ** 2", "^`a#1 \\*\\* 2` cannot be part of an objective"),
        ("a#1 * text", "`text` alone is no objective; write `text\\('a cat'\\)`"),
        ("__import__('os')", "there is no `__import__`"),
        ("channel(open('x'), 1)", "is not how `channel` is called; write `channel\\('PATH', 3\\)`"),
        ("channel('a')", "is not how `channel` is called"),
        ("channel('a', 1.5)", "is not how `channel` is called"),
        ("channel('a', None)", "is not how `channel` is called"),
        ("channel('a', n=1, n=2)", "is not how `channel` is called"),
        ("neuron('a', 1, 'top')", "is not how `neuron` is called"),
        ("direction('a', 1, 2)", "`direction` of `a` takes a list of numbers, one per unit, as in"),
        ("direction('a', [[1, 2], [3]])", "or several such lists of the same length"),
        ("direction('a', ['1'])", "takes a list of numbers"),
        ("direction('a', [1e999])", "`direction` of `a` takes finite numbers"),
        ("direction('a', [[1, 0], [0, 0]])", "a vector of zeros has no direction"),
        ("direction('a', [1], 'much')", "the power of a direction is a number from 0 on, not 'm"),
        ("a#" + "9" * 5000, "is no objective"),
        ("1" * 400 + " * a#1", "is no objective"),
        ("a#1 + 1e999", "an objective takes finite numbers, not inf"),
        ("text('a cat')", "`text` needs a CLIP model"),
    ],
)
def test_malformed_objectives_are_refused(written: str, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        parse_objective(written)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (channel("a", 5), "`a` has 5 units, numbered 0 to 4; there is no 5"),
        (channel("c", 5), "`c` did not run"),
        (neuron("a", 0, 4, 0), "rows 0 to 3 and columns 0 to 5; there is no position in row 4, "),
        (neuron("b.2.fc1", 0, -1), "`b.2.fc1` has 17 positions, numbered 0 to 16; there is no -1"),
        (cosine("a", V) + direction("a", V[:3]), "a direction of 3 units cannot be one of `a`"),
    ],
)
def test_missing_outputs_are_refused(objective: Objective, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        objective(OUTPUTS)


def test_directions_are_split_by_row() -> None:
    vectors = torch.stack([V, -V])
    objective = 2 * direction("a", vectors) + channel("a", 0)
    assert objective.rows == 2
    assert len({one.text for one in objective.split()}) == 2
    for one, vector in zip(objective.split(), vectors, strict=True):
        expected = 2 * direction("a", vector) + channel("a", 0)
        torch.testing.assert_close(one(OUTPUTS), expected(OUTPUTS))
    assert channel("a", 0).split()[0].text == "a#0"
    with pytest.raises(ObjectiveError, match=r"has 2 rows and .* 3: they cannot be added"):
        _ = direction("a", vectors) + direction("a", torch.stack([V] * 3))


def test_words_are_embedded_by_a_clip_model() -> None:
    asked: list[str] = []

    def read(words: object) -> np.ndarray:
        asked.extend(words)  # type: ignore[arg-type, call-overload]
        return np.ones((1, 5), np.float32)

    parsed = parse_objective("text('a cat')", read)
    assert (asked, parsed.text) == (["a cat"], "text('a cat')")
    expected = cosines(MEAN, torch.ones(5))
    torch.testing.assert_close(parsed({"visual_projection": MEAN}), expected)
    assert text("a cat", read).paths == ("visual_projection",)
    for written in (r'text("a \" b#3")', r"text('it\'s b#3')", "text('''it's # b#3''')"):
        parse_objective(written, read)
    assert asked[2:] == ['a " b#3', "it's b#3", "it's # b#3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-( -a#1 ) +"], "`-( -a#1 ) +` is no objective"),
        (["a#1", "--stepz", "3"], "No such option '--stepz'. "),
        (["a#1", "--t", "0.9"], "--t: only latents"),
        (["a#1", "--prompt", ""], "--prompt: only latents"),
        (["a#1", "--dtype", "float16"], "--dtype: only latents"),
    ],
)
def test_a_command_takes_objectives_as_typed(given: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["units", "visualize", *given])
    assert (done.exit_code, message in done.output) == (2, True), done.output


# ---------------------------------------------------------------- networks


class Small(nn.Module):
    """Two layers, an attention projection with two heads among them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.to_q = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.to_q(x))
        self.calls += 1
        return output


def test_modules_that_are_not_there_are_named() -> None:
    with pytest.raises(ObjectiveError, match="no module `lst` in the Small, did you mean `last`"):
        check([parse_objective("lst#1")], Small())
    with pytest.raises(ObjectiveError, match="`last` has no attention heads"):
        check([head("last", 0)], Small())
    check([parse_objective("last#1")], Small())
    with pytest.raises(ObjectiveError, match="`0` is a list of modules, which has no output"):
        check([channel("0", 1)], nn.Sequential(nn.ModuleList([Small()])))


@pytest.mark.parametrize(
    "written", ["last#1 - last#1", "0 * last#1", "0.1 * last#1 + 0.2 * last#1 - 0.3 * last#1 + 1"]
)
def test_what_no_input_changes_is_refused(written: str) -> None:
    with pytest.raises(ObjectiveError, match="does not depend on the input: its terms cancel"):
        check([parse_objective("last#1"), parse_objective(written)], Small())
    check([parse_objective("last#1 - last#2")], Small())


def test_pictures_that_differ_are_several() -> None:
    check([diversity("last")], Small())
    for objective in (2 * diversity("last"), diversity("last") + channel("last", 1)):
        with pytest.raises(
            ObjectiveError, match="compares pictures of several seeds, and there is one at a"
        ):
            check([objective], Small(), rows=1)


def test_a_pass_ends_once_all_outputs_are_recorded_and_leaves_no_hooks() -> None:
    network, x = Small(), torch.randn(2, 5, 4, requires_grad=True)
    outputs: dict[str, Tensor] = {}
    with output_hooks(network, ["to_q"], outputs):
        network(x)
    assert network.calls == 0
    torch.testing.assert_close(outputs["to_q"], network.to_q(x).movedim(2, 1))
    assert outputs["to_q"].requires_grad
    with pytest.raises(ZeroDivisionError), output_hooks(network, ["last"], {}):
        _ = 1 / 0
    assert not any(module._forward_hooks for module in network.modules())


def test_heads_are_separated() -> None:
    from transformers.models.clip.modeling_clip import CLIPAttention, CLIPVisionConfig

    config = CLIPVisionConfig(hidden_size=8, num_attention_heads=2, attn_implementation="eager")
    network = nn.Sequential(CLIPAttention(config))
    x = torch.randn(2, 5, 8)
    inner: list[Tensor] = []
    handle = network[0].out_proj.register_forward_pre_hook(lambda _, args: inner.append(args[0]))
    outputs: dict[str, Tensor] = {}
    objective = head("0.out_proj", 1)
    check([objective], network)
    with output_hooks(network, objective.paths, outputs):
        network(x)
    handle.remove()
    expected = inner[0][..., 4:].square().mean(-1).sqrt().mean(1)
    torch.testing.assert_close(objective(outputs), expected)


def test_objectives_of_one_text_are_one() -> None:
    assert parse_objective("a#1 - 0.5 * a#2") == channel("a", 1) - 0.5 * channel("a", 2)
    assert len({channel("a", 1), channel("a", 1), signed("a", 1)}) == 2
    assert direction("a", V) != direction("a", -V)
