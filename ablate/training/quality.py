"""Measure the bundled model: `python -m ablate.training.quality`.

Pictures are generated for captions like those of training and classified by the model's image/text
encoder: the nearest caption among all subjects, all hats, all places. The classification itself is
measured on drawn pictures that were not trained on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from ablate.bundled import FOLDER
from ablate.drift import Reader, softmax
from ablate.sampling import Pipeline, Request, Sampling
from ablate.training import data

FLAGSHIP = data.Picture("cat", "party hat")


class Readout:
    """Names what pictures show, by the image/text encoder in `folder`.

    Images are arrays (images, height, width, 3) in [0, 1].
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.reader = Reader.load(str(folder), "cpu")

    def scores(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Probabilities of captions, (images, captions)."""
        pictures = [Image.fromarray((i * 255).round().astype("uint8")) for i in images]
        cosines = self.reader.images(pictures) @ self.reader.texts(captions).T
        return softmax(self.reader.scale * cosines)

    def subjects(self, images: np.ndarray) -> list[str]:
        """The most likely subject of each image."""
        captions = [caption(data.Picture(s), place=False) for s in data.SUBJECTS]
        return [data.SUBJECTS[i] for i in self.scores(images, captions).argmax(1)]

    def hat(self, image: np.ndarray, picture: data.Picture) -> str | None:
        """The most likely hat on a subject, or None."""
        hats = (None, *data.HATS)
        captions = [caption(replace(picture, hat=h), place=False) for h in hats]
        return hats[int(self.scores(image[None], captions).argmax())]

    def place(self, image: np.ndarray, picture: data.Picture) -> str:
        """The most likely background or scene behind a subject."""
        places = (*data.BACKGROUNDS, *data.SCENES)
        captions = [caption(replace(picture, background=b), place=True) for b in places]
        return places[int(self.scores(image[None], captions).argmax())]


class Plain(random.Random):
    """Always takes the first choice: the plain wording of captions."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


def caption(picture: data.Picture, place: bool) -> str:
    """The plain caption of a picture, with its background or without."""
    full, without_place, _ = data.captions(picture, Plain())
    return full if place else without_place


@dataclass
class Figures:
    """Shares of images in which the readout names what the caption does.

    Attributes:
        drawn: The subject, on drawn pictures that were not trained on.
        flagship: How many of 16 seeds show both the cat and the party hat.
        subject: The subject, over captions × seeds.
        hat: The hat or its absence, of animals.
        place: The background or scene.
        held_out: Subject and hat, of pairs that were not trained on.
    """

    drawn: float
    flagship: int
    subject: float
    hat: float
    place: float
    held_out: float


def measure(pipeline: Pipeline, readout: Readout, captions: int, seeds: int) -> Figures:
    """Measure how well the model draws captions, trained on and held out."""
    rng = random.Random(2026)
    fresh = [data.sample(rng) for _ in range(500)] + [data.sample(rng, True) for _ in range(100)]
    drawn = np.stack([data.render(p) for p in fresh]) / 255
    right = [a == p.subject for a, p in zip(readout.subjects(drawn), fresh, strict=True)]

    asked = [data.sample(rng) for _ in range(captions)]
    hits: dict[str, list[bool]] = {"subject": [], "hat": [], "place": []}
    for picture in asked:
        images = generate(pipeline, caption(picture, place=True), range(seeds))
        for image, subject in zip(images, readout.subjects(images), strict=True):
            hits["subject"].append(subject == picture.subject)
            hits["place"].append(readout.place(image, picture) == picture.background)
            if picture.subject in data.ANIMALS:
                hits["hat"].append(readout.hat(image, picture) == picture.hat)

    composed = []
    for subject, hat in sorted(data.HELD_OUT):
        picture = data.Picture(subject, hat)
        images = generate(pipeline, caption(picture, place=False), range(8))
        for image, named in zip(images, readout.subjects(images), strict=True):
            composed.append(named == subject and readout.hat(image, picture) == hat)

    images = generate(pipeline, caption(FLAGSHIP, place=False), range(16))
    cats = [
        named == "cat" and readout.hat(image, FLAGSHIP) == "party hat"
        for image, named in zip(images, readout.subjects(images), strict=True)
    ]
    return Figures(
        drawn=float(np.mean(right)),
        flagship=sum(cats),
        subject=float(np.mean(hits["subject"])),
        hat=float(np.mean(hits["hat"])),
        place=float(np.mean(hits["place"])),
        held_out=float(np.mean(composed)),
    )


def generate(pipeline: Pipeline, prompt: str, seeds: Sequence[int] | range) -> np.ndarray:
    """Images of one prompt, shape (seeds, 64, 64, 3), in [0, 1], at default settings."""
    settings = pipeline.settings(Sampling())
    return pipeline.sample([Request(prompt, seed) for seed in seeds], settings).images


def samples(pipeline: Pipeline, prompts: Sequence[str], seeds: int, scale: int = 2) -> Image.Image:
    """Draw a sheet with a row of images per prompt and a column per seed."""
    rows = [np.concatenate(list(generate(pipeline, p, range(seeds))), axis=1) for p in prompts]
    pixels = (np.concatenate(rows) * 255).round().astype("uint8")
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


SHOWN = (
    "a cat in a party hat", "a cat in a party hat on a blue background", "a dog in a top hat",
    "a red car on a beach", "a panda in a graduation cap in the snow", "a sunflower at night",
    "a penguin in a crown", "a pig in a party hat", "a green umbrella in a meadow",
    "a rocket in the desert", "a house on a yellow background", "a butterfly",
)  # fmt: skip


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=FOLDER)
@click.option("--captions", default=100, show_default=True)
@click.option("--seeds", default=4, show_default=True)
@click.option("--pictures", type=click.Path(path_type=Path), help="Draw samples into this file.")
def main(model: Path, captions: int, seeds: int, pictures: Path | None) -> None:
    """Print the figures of the model card, and draw samples."""
    pipeline = Pipeline.load(str(model))
    figures = measure(pipeline, Readout(model), captions, seeds)
    click.echo(json.dumps(vars(figures), indent=1))
    if pictures is not None:
        samples(pipeline, SHOWN, 10).save(pictures)


if __name__ == "__main__":
    main()
