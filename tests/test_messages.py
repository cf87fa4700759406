"""Which article names take."""

from __future__ import annotations

import pytest

from ablate.messages import articled


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
