"""A user's metrics, from the same file as a user's ops.

# my_lab.py
import ablate

@ablate.metric
def redness(image, baseline):
    return abs(image[..., 0].mean() - baseline[..., 0].mean())

@ablate.metric(of="sets")
def spread(images, baselines):
    return images.std(axis=0).mean() / baselines.std(axis=0).mean()
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from ablate.messages import RequestError

Of = Literal["images", "sets"]
Measure = Callable[[np.ndarray, np.ndarray], Any]
# Columns of tables, beside metrics of the lab; `embedding_...` are those of its readers.
TAKEN = re.compile(
    r"cell|variant|prompt|seed|state|rmse|ssim|latent|score|class|shows|margin|same_as"
    r"|(embedding|lpips|fid|kid|concept|probability)(_.*)?|.*_floors"
)


class MetricError(RequestError):
    """A user's metric that cannot measure; says where it is, and why."""


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: The name of its column.
        measure: The function `(image, baseline) -> number` of two arrays, float32 (height, width,
            3) in [0, 1]: a distance, 0 for equal images and else above it. Of sets it is
            `(images, baselines) -> number` of arrays (images, height, width, 3): any number.
        of: `images` or `sets`.
        code: The digest of the file that it comes from; None for one registered in Python.
    """

    name: str
    measure: Measure
    of: Of = "images"
    code: str | None = None

    def distance(self, image: np.ndarray, baseline: np.ndarray) -> float:
        """Measure an image against its baseline. Raises `MetricError`."""
        value = self._measured(image.copy(), baseline.copy())  # it may write into them
        if value < 0:
            raise self._error(f"returned {value:g}; a distance of images is 0 or above")
        return value

    def distance_of_sets(
        self, images: Sequence[Image.Image], baselines: Sequence[Image.Image]
    ) -> float:
        """Measure images of one size against their baselines. Raises `MetricError`."""
        both = (
            np.stack([np.asarray(image, np.float32) / 255 for image in each])
            for each in (images, baselines)
        )
        return self._measured(*both)

    def check(self, width: int, height: int) -> None:
        """Measure noise. Raises `MetricError`, before images are computed for nothing."""
        rng = np.random.default_rng(0)
        count = (2,) if self.of == "sets" else ()
        noise = (rng.random((*count, height, width, 3), np.float32) for _ in range(2))
        self._measured(*noise)

    def _measured(self, image: np.ndarray, baseline: np.ndarray) -> float:
        try:
            value = float(self.measure(image, baseline))
        except Exception as error:  # of a user's code
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == self._file]
            message = f"raised {type(error).__name__}: {error}"
            raise self._error(message, lines[-1] if lines else None) from error
        if not math.isfinite(value):
            raise self._error(f"returned {value}, which is no finite number")
        return value

    @property
    def _file(self) -> str:
        return str(self.measure.__code__.co_filename) if hasattr(self.measure, "__code__") else ""

    def _error(self, message: str, line: int | None = None) -> MetricError:
        if line is None and hasattr(self.measure, "__code__"):
            line = self.measure.__code__.co_firstlineno
        place = f"{self._file}:{line}: " if self._file else ""
        return MetricError(f"{place}the metric `{self.name}` {message}")


METRICS: dict[str, Metric] = {}


def metric(measure: Measure | None = None, /, *, of: Of = "images") -> Any:
    """Register a function `(image, baseline) -> number` as a metric under its name.

    Both are arrays, float32 (height, width, 3) in [0, 1]; the number is a distance, 0 for equal
    images. Of sets, it is a function of the images of a variant and of their baselines, arrays
    (images, height, width, 3). Raises `ValueError` for a name that is taken.
    """
    if of not in get_args(Of):
        raise ValueError(f"a metric is of `images` or of `sets`, not of `{of}`")

    def register(function: Measure) -> Measure:
        name = function.__name__
        if name in METRICS or TAKEN.fullmatch(name):
            raise ValueError(f"the name `{name}` of a metric is taken; give it another one")
        METRICS[name] = Metric(name, function, of)
        return function

    return register if measure is None else register(measure)
