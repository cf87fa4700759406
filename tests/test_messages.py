"""Articles, counts and nearest names."""

from __future__ import annotations

import pytest

from ablate.messages import (
    LONGEST,
    articled,
    counted,
    did_you_mean,
    message_of,
    phrase,
    printable,
    shown,
)


@pytest.mark.parametrize(
    ("name", "article"),
    [
        ("IFPipeline", "an"),
        ("SD3Transformer2DModel", "an"),
        ("AuraFlowPipeline", "an"),
        ("LMSDiscreteScheduler", "an"),
        ("I2VGenXLPipeline", "an"),
        ("EulerDiscreteScheduler", "a"),
        ("UNet2DConditionModel", "a"),
        ("UniPCMultistepScheduler", "a"),
        ("StableDiffusionXLPipeline", "a"),
        ("HunyuanDiTPipeline", "a"),
        ("CLIPTextModel", "a"),
        ("T5EncoderModel", "a"),
        ("VQModel", "a"),
        ("UnCLIPPipeline", "an"),
        ("UNetX", "a"),
        ("OneFormerModel", "a"),
        ("orange", "an"),
        ("uneven road", "an"),
        ("unicorn", "a"),
        ("hourglass", "an"),
        ("one-eyed cat", "a"),
        ("euphonium", "a"),
        ("X-ray", "an"),
        ("US flag", "a"),
    ],
)
def test_as_they_are_spoken(name: str, article: str) -> None:
    assert articled(name) == f"{article} {name}"


def test_counts_have_plurals_and_thousands() -> None:
    assert [counted(n, "unit") for n in (0, 1, 1200)] == ["0 units", "1 unit", "1,200 units"]


def test_near_misses_have_a_suggestion_and_others_none() -> None:
    assert did_you_mean("promts", ["prompts", "seeds"]) == ", did you mean `prompts`?"
    assert did_you_mean("x", ["prompts", "seeds"]) == ""


def test_single_words_are_read_with_an_article() -> None:
    assert [phrase(word) for word in ("owl", "palm tree")] == ["an owl", "palm tree"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a cat, 猫 é e\u0301 \U0001f600\xa0", "a cat, 猫 é e\u0301 \U0001f600\xa0"),
        ("\x1b[31m\x07\x00", r"\x1b[31m\x07\x00"),
        ("\u202eabc\u200b\u2028", r"\u202eabc\u200b\u2028"),
        ("\ud800\n\t", r"\ud800\n\t"),
        ("می\u200cخواهم \U0001f469\u200d\U0001f466", "می\u200cخواهم \U0001f469\u200d\U0001f466"),
        ("a\u200db", r"a\u200db"),
    ],
)
def test_what_controls_a_terminal_is_shown_escaped(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_messages_are_of_bounded_length() -> None:
    assert len(message_of("a\nb" * 10**6)) == LONGEST
    assert message_of("a\n\x1b") == "a\n\\x1b"
    assert shown("x" * 1000) == "x" * 39 + "..." + "x" * 38
