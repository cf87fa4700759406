"""Pictures and captions that the bundled model is trained on, drawn procedurally.

A `Picture` is a description; `svg` draws it, `captions` puts it into words. The subjects are
openly licensed emoji (see `artwork.json`); party hats, backgrounds and scenes are drawn here.

    >>> picture = Picture("cat", hat="party hat", background="blue")
    >>> next(iter(captions(picture, random.Random(0))))
    'a cat in a party hat on a blue background'
"""

from __future__ import annotations

import colorsys
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # pixels
ANIMALS = (
    "cat", "dog", "fox", "panda", "bear", "koala", "tiger", "lion",
    "mouse", "rabbit", "frog", "pig", "cow", "monkey", "penguin", "owl",
)  # fmt: skip
THINGS = (
    "car", "rocket", "pizza", "sunflower", "balloon", "house", "apple", "banana",
    "strawberry", "cactus", "mushroom", "tree", "boat", "umbrella", "cupcake", "butterfly",
)  # fmt: skip
SUBJECTS = ANIMALS + THINGS
HATS = ("party hat", "top hat", "crown", "graduation cap")
BACKGROUNDS = {
    "white": "#f7f7f5",
    "gray": "#9a9da3",
    "red": "#e2685f",
    "orange": "#f4a65c",
    "yellow": "#f8e08a",
    "green": "#8fce8a",
    "blue": "#7fb5ea",
    "purple": "#b292dd",
    "pink": "#f5b3cd",
}
SCENES = {  # caption phrase of each scene
    "beach": "on a beach",
    "meadow": "in a meadow",
    "snow": "in the snow",
    "desert": "in the desert",
    "night": "at night",
}
PAINTS = {"red": 0.0, "yellow": 0.14, "green": 0.33, "blue": 0.58, "purple": 0.77}  # hues
PAINTED = {
    "car": 0.0,
    "balloon": 0.0,
    "umbrella": 0.68,
}  # subjects that come in colors: original hue
# Pairs excluded from training: whether the model draws them shows that it composes.
HELD_OUT = {
    ("panda", "crown"),
    ("fox", "top hat"),
    ("pig", "party hat"),
    ("owl", "graduation cap"),
    ("tiger", "top hat"),
    ("frog", "crown"),
}


@dataclass(frozen=True)
class Picture:
    """The content of a picture.

    Attributes:
        subject: One of SUBJECTS.
        hat: One of HATS, of animals.
        paint: A key of PAINTS, of the subjects in PAINTED.
        background: A key of BACKGROUNDS or SCENES.
        x: Shift of the subject to the right, in pixels of a 64 × 64 picture.
        y: Shift of the subject downwards.
        scale: Factor of the subject's size.
    """

    subject: str
    hat: str | None = None
    paint: str | None = None
    background: str = "white"
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0


@cache
def artwork() -> dict[str, dict[str, str | int]]:
    """SVG bodies by name: `{"body": ..., "size": side of the view box, "source": ...}`."""
    text = (Path(__file__).parent / "artwork.json").read_text(encoding="utf-8")
    icons: dict[str, dict[str, str | int]] = json.loads(text)["icons"]
    return icons


def sample(rng: random.Random, held_out: bool = False) -> Picture:
    """Draw a picture at random; `held_out`: from the pairs that are excluded from training."""
    if held_out:
        subject, hat = rng.choice(sorted(HELD_OUT))
        return _jitter(Picture(subject, hat, background=_background(rng)), rng)
    # The prompt that every recipe starts from is drawn more often than chance would.
    if rng.random() < 0.04:
        return _jitter(Picture("cat", "party hat", background=_background(rng)), rng)
    subject = rng.choice(SUBJECTS)
    picture = Picture(subject, background=_background(rng))
    if subject in ANIMALS and rng.random() < 0.6:
        hats = [h for h in HATS if (subject, h) not in HELD_OUT]
        picture = replace(picture, hat=rng.choice(hats))
    if subject in PAINTED:
        picture = replace(picture, paint=rng.choice(tuple(PAINTS)))
    return _jitter(picture, rng)


def _background(rng: random.Random) -> str:
    return rng.choice(tuple(BACKGROUNDS) if rng.random() < 0.65 else tuple(SCENES))


def _jitter(picture: Picture, rng: random.Random) -> Picture:
    return replace(
        picture, x=rng.uniform(-3, 3), y=rng.uniform(-2, 2), scale=rng.uniform(0.92, 1.08)
    )


def describe(folder: Path) -> None:
    """Write the `preprocessor_config.json` and `vocabulary.txt` of an encoder of these pictures."""
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    (folder / "vocabulary.txt").write_text("\n".join(SUBJECTS) + "\n", encoding="utf-8")


def captions(picture: Picture, rng: random.Random) -> Iterator[str]:
    """Yield three captions: of everything, without the background, of the subject alone."""
    article = rng.choice(("a", "a", "a", "a picture of a"))
    wearing = rng.choice(("in a", "in a", "in a", "wearing a", "with a"))

    def caption(hat: bool, paint: bool, place: bool) -> str:
        words = f"{article} {picture.paint} " if paint and picture.paint else f"{article} "
        words += picture.subject
        if hat and picture.hat:
            words += f" {wearing} {picture.hat}"
        if place:
            scene = SCENES.get(picture.background)
            words += f" {scene}" if scene else f" on a {picture.background} background"
        return re.sub(r"\ba (?=[aeiou])", "an ", words)

    yield caption(hat=True, paint=True, place=True)
    yield caption(hat=True, paint=True, place=False)
    yield caption(hat=False, paint=False, place=False)


def render(picture: Picture, size: int = SIZE) -> np.ndarray:
    """The picture as uint8 RGB, shape (size, size, 3)."""
    return np.asarray(_raster(svg(picture), size).convert("RGB"))


def svg(picture: Picture) -> str:
    """The picture as an SVG document with a view box of 64 × 64."""
    side = (50 if picture.hat is None else 44) * picture.scale
    left = 32 - side / 2 + picture.x
    top = (32 if picture.hat is None else 40) - side / 2 + picture.y
    layers = [_backdrop(picture.background), _placed(_body(picture), _icon_size(picture.subject),
                                                     left, top, side)]  # fmt: skip
    if picture.hat is not None:
        crown_x, crown_y = _head(picture.subject)
        width = side * (0.62 if picture.hat in ("graduation cap", "top hat") else 0.5)
        # How far each hat is pulled down over the head, as a share of its size.
        sink = {"party hat": 0.12, "top hat": 0.2, "crown": 0.16, "graduation cap": 0.36}
        layers.append(
            _placed(
                PARTY_HAT if picture.hat == "party hat" else str(artwork()[picture.hat]["body"]),
                64 if picture.hat == "party hat" else _icon_size(picture.hat),
                left + crown_x * side - width / 2,
                top + crown_y * side - width * (1 - sink[picture.hat]),
                width,
            )
        )
    return _document("".join(layers), 64)


PARTY_HAT = (
    '<clipPath id="cone"><path d="M32 8 L54 58 Q32 66 10 58 Z"/></clipPath>'
    '<g clip-path="url(#cone)"><rect width="64" height="64" fill="#e8388a"/>'
    '<path d="M0 26 L64 10 V20 L0 36Z M0 46 L64 30 V40 L0 56Z M0 66 L64 50 V60 L0 76Z"'
    ' fill="#ffd93b"/></g><circle cx="32" cy="8" r="7.5" fill="#3fc1f0"/>'
)


def _backdrop(background: str) -> str:
    if background in BACKGROUNDS:
        return f'<rect width="64" height="64" fill="{BACKGROUNDS[background]}"/>'
    sky, ground, horizon, extra = {
        "beach": ("#8fd3f5", "#f2d79b", 46, '<rect y="36" width="64" height="10" fill="#2f9bd0"/>'),
        "meadow": ("#b8e3fa", "#6fbf4f", 40, '<circle cx="56" cy="8" r="5" fill="#ffd94a"/>'),
        "snow": ("#c9d6e6", "#fbfdff", 42, "".join(
            f'<circle cx="{x}" cy="{y}" r="1.3" fill="#fff"/>'
            for x, y in ((6, 8), (16, 20), (50, 10), (58, 24), (8, 32), (34, 4), (57, 36)))),
        "desert": ("#fbd9a0", "#e0a050", 44, '<circle cx="9" cy="10" r="6" fill="#ff8a3c"/>'),
        "night": ("#1d2a57", "#22402f", 50, '<circle cx="54" cy="10" r="6" fill="#f7eeb5"/>'
            + "".join(f'<circle cx="{x}" cy="{y}" r="1" fill="#fff"/>'
            for x, y in ((7, 9), (18, 5), (30, 6), (9, 26), (58, 28), (5, 42)))),
    }[background]  # fmt: skip
    return (
        f'<rect width="64" height="64" fill="{sky}"/>{extra}'
        f'<rect y="{horizon}" width="64" height="{64 - horizon}" fill="{ground}"/>'
    )


def _body(picture: Picture) -> str:
    body = str(artwork()[picture.subject]["body"])
    if picture.paint is None:
        return body
    hue = PAINTED[picture.subject]
    turn = PAINTS[picture.paint] - hue
    return re.sub(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b", lambda m: _turned(m[0], hue, turn), body)


def _turned(color: str, near: float, turn: float) -> str:
    """Turn the hue of a color by `turn` if it is close to the hue `near`; leave other colors."""
    digits = color[1:] if len(color) == 7 else "".join(c * 2 for c in color[1:])
    r, g, b = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    hue, saturation, value = colorsys.rgb_to_hsv(r, g, b)
    if saturation < 0.35 or min((hue - near) % 1, (near - hue) % 1) > 0.12:
        return color
    rgb = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return "#" + "".join(f"{round(c * 255):02x}" for c in rgb)


@cache
def _head(subject: str) -> tuple[float, float]:
    """Where a hat sits: the topmost opaque pixel near the middle, as shares of the side."""
    side = 128
    icon = _raster(_document(str(artwork()[subject]["body"]), _icon_size(subject)), side)
    opaque = np.asarray(icon)[..., 3] > 128
    columns = slice(int(side * 0.44), int(side * 0.56))
    return 0.5, float(np.argmax(opaque[:, columns].any(axis=1))) / side


def _icon_size(name: str) -> int:
    return int(artwork()[name]["size"])


def _placed(body: str, size: float, left: float, top: float, side: float) -> str:
    scale = side / size
    return f'<g transform="translate({left:.3f} {top:.3f}) scale({scale:.5f})">{body}</g>'


def _document(body: str, size: int) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">{body}</svg>'


def _raster(document: str, size: int) -> Image.Image:
    import resvg_py  # only drawing needs it: the finished model does not

    png = resvg_py.svg_to_bytes(svg_string=document, width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
