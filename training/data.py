"""The data sets: where they are, who made them, and how a picture becomes a network's input.

A data set is a folder with ``manifest.csv``: path, label, split (train or test), group
(a patient, or whatever else must not be divided). Sealed or test rows never reach training.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DATA_VARIABLE = "MIAD_DATA"


@dataclass(frozen=True)
class Source:
    """A public data set and its licence; labels: the classes of the task that come from it."""

    name: str
    licence: str
    labels: tuple[str, ...]


SOURCES: Mapping[str, tuple[Source, ...]] = MappingProxyType(
    {
        "brain_mri": (
            Source(
                "Brain tumor dataset (Cheng, figshare 1512427)",
                "CC BY 4.0",
                ("glioma", "meningioma", "pituitary"),
            ),
            Source(
                "Br35H :: Brain Tumor Detection 2020", "not stated by the source", ("no_tumor",)
            ),
        ),
    }
)

# The classes a task is also judged on alone: the others have another origin.
SUBSETS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {"brain_mri": ("tumours_accuracy", ("glioma", "meningioma", "pituitary"))}
)


@dataclass(frozen=True)
class TaskImages:
    """The decoded pictures of one task.

    images: (n, 1 or 3, side, side) uint8. targets: (n,) int64, indices into ``labels``,
    which are sorted. groups: (n,) strings.
    """

    task: str
    labels: tuple[str, ...]
    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    groups: NDArray[np.str_]

    def take(self, chosen: NDArray[np.bool_]) -> TaskImages:
        """The pictures where ``chosen`` ((n,) bool) holds."""
        return TaskImages(
            self.task,
            self.labels,
            self.images[chosen],
            self.targets[chosen],
            self.groups[chosen],
        )


def data_root(given: Path | None) -> Path:
    """The folder of the data sets: ``given``, or what MIAD_DATA names.

    Raises:
        FileNotFoundError: neither names a folder.
    """
    root = given or Path(os.environ.get(DATA_VARIABLE, ""))
    if root == Path() or not root.is_dir():
        raise FileNotFoundError(f"no data folder: give --data or set {DATA_VARIABLE}")
    return root


def fit_pad(picture: Image.Image, side: int) -> Image.Image:
    """Pad with black to a centred square, then resize (bilinear, antialiased) to ``side``."""
    longest = max(picture.size)
    if picture.size != (longest, longest):
        square = Image.new(picture.mode, (longest, longest))
        square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
        picture = square
    return picture.resize((side, side), Image.Resampling.BILINEAR)


def load_split(root: Path, task: str, split: str, side: int) -> TaskImages:
    """Decode the ``split`` of a task at ``side`` x ``side`` pixels."""
    with (root / task / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = tuple(sorted({row["label"] for row in rows}))
    rows = [row for row in rows if row["split"] == split]
    pictures = [_decode(root / task / row["path"], side) for row in rows]
    channels = max(picture.shape[0] for picture in pictures)
    return TaskImages(
        task,
        labels,
        np.stack([np.broadcast_to(p, (channels, side, side)) for p in pictures]),
        np.array([labels.index(row["label"]) for row in rows], np.int64),
        np.array([row["group"] for row in rows]),
    )


def _decode(path: Path, side: int) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        grey = picture.mode in {"1", "L", "LA", "I", "I;16"}
        fitted = fit_pad(picture.convert("L" if grey else "RGB"), side)
    pixels = np.asarray(fitted, np.uint8)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def hold_out(
    images: TaskImages, fraction: float, rng: np.random.Generator
) -> tuple[TaskImages, TaskImages]:
    """Divide into a part to learn from and a part to choose epochs by.

    Whole groups, label by label, until ``fraction`` of each label's pictures is held out.
    """
    held: set[str] = set()
    for target in range(len(images.labels)):
        members = images.groups[images.targets == target]
        wanted = fraction * len(members)
        for group in rng.permutation(np.unique(members)):
            if wanted <= 0:
                break
            held.add(str(group))
            wanted -= np.count_nonzero(members == group)
    chosen = np.isin(images.groups, sorted(held))
    return images.take(~chosen), images.take(chosen)


def class_weights(images: TaskImages) -> NDArray[np.float32]:
    """Weight per label, (labels,) float32, inverse to its frequency; 1 on average."""
    counts = np.bincount(images.targets, minlength=len(images.labels))
    weights: NDArray[np.float32] = (counts.sum() / (len(counts) * counts)).astype(np.float32)
    return weights


def model_input(
    images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Normalise stored pictures (n, 1 or 3, h, w) uint8 to (n, 3, h, w) float32."""
    scaled = images.astype(np.float32) / 255.0
    shape = (1, 3, 1, 1)
    centre, spread = (np.array(v, np.float32).reshape(shape) for v in (mean, std))
    normalised: NDArray[np.float32] = (scaled - centre) / spread
    return normalised
