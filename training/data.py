"""The data sets: where they are, who made them, and how a picture becomes a network's input.

A data set is a folder with ``manifest.csv``: path, label, split (train or test), group
(a patient, or whatever else must not be divided), and, where lesions are outlined, mask (a
picture as large as the picture, white where the lesion is) or box (centre x, centre y, width and
height, as fractions of the picture). Sealed or test rows never reach training.
The folder of all sets may also be one file, a pack (``training.pack``): a ZIP archive with the
same names in it.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
        "dermoscopy": (
            Source(
                "HAM10000 (Tschandl et al., part of ISIC 2019)",
                "CC BY-NC 4.0",
                ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
            ),
        ),
        "fundus": (
            Source(
                "EyePACS, Diabetic Retinopathy Detection",
                "terms of the EyePACS competition",
                ("diabetic_retinopathy",),
            ),
            Source(
                "Public collection of fundus photographs (cataract, glaucoma, normal)",
                "not stated by the source",
                ("cataract", "glaucoma", "normal"),
            ),
        ),
        "chest_xray": (
            Source(
                "NIH ChestX-ray14 (NIH Clinical Center)",
                "open, attribution asked for",
                ("no_finding", "pneumonia"),
            ),
            Source(
                "COVID-19 image data collection (Cohen et al.)",
                "picture by picture: Apache 2.0, CC BY, CC BY-NC-SA, or not stated",
                ("covid19",),
            ),
        ),
        "chest_ct": (
            Source(
                "COVID-CT (UC San Diego; figures of preprints)",
                "not stated by the source",
                ("covid19", "other"),
            ),
        ),
        "breast_us": (
            Source(
                "BUSI, Breast Ultrasound Images (Al-Dhabyani et al.)",
                "not stated by the source",
                ("benign", "malignant", "normal"),
            ),
        ),
    }
)

# The classes of a task that show no lesion.
HEALTHY: Mapping[str, tuple[str, ...]] = MappingProxyType({"brain_mri": ("no_tumor",)})

# The classes a task is also judged on alone: the others have another origin.
SUBSETS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {"brain_mri": ("tumours_accuracy", ("glioma", "meningioma", "pituitary"))}
)


@dataclass(frozen=True)
class TaskImages:
    """The decoded pictures of one task.

    images: (n, 1 or 3, side, side) uint8. targets: (n,) int64, indices into ``labels``,
    which are sorted. groups: (n,) strings. masks: (n, 1, side, side) uint8, the share of each
    pixel that is lesion, of 255; None where they were not asked for.
    """

    task: str
    labels: tuple[str, ...]
    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    groups: NDArray[np.str_]
    masks: NDArray[np.uint8] | None = None

    def take(self, chosen: NDArray[np.bool_]) -> TaskImages:
        """The pictures where ``chosen`` ((n,) bool) holds."""
        return TaskImages(
            self.task,
            self.labels,
            self.images[chosen],
            self.targets[chosen],
            self.groups[chosen],
            None if self.masks is None else self.masks[chosen],
        )


def data_root(given: Path | None) -> Path:
    """The folder or pack of the data sets: ``given``, or what MIAD_DATA names.

    Raises:
        FileNotFoundError: neither names one.
    """
    root = given or Path(os.environ.get(DATA_VARIABLE, ""))
    if root == Path() or not root.exists():
        raise FileNotFoundError(f"no data folder: give --data or set {DATA_VARIABLE}")
    return root


def read_file(root: Path, name: str) -> bytes:
    """The bytes of ``name`` ("brain_mri/manifest.csv") in the folder or pack ``root``."""
    if root.is_dir():
        return (root / name).read_bytes()
    with zipfile.ZipFile(root) as pack:
        return pack.read(name)


def read_files(root: Path, names: Sequence[str]) -> list[bytes]:
    """The bytes of many files; a pack is opened once."""
    if root.is_dir():
        return [(root / name).read_bytes() for name in names]
    with zipfile.ZipFile(root) as pack:
        return [pack.read(name) for name in names]


def read_manifest(root: Path, task: str) -> list[dict[str, str]]:
    """The rows of a data set's ``manifest.csv``."""
    text = read_file(root, f"{task}/manifest.csv").decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def fit_pad(picture: Image.Image, side: int) -> Image.Image:
    """Pad with black to a centred square, then resize (bilinear, antialiased) to ``side``."""
    longest = max(picture.size)
    if picture.size != (longest, longest):
        square = Image.new(picture.mode, (longest, longest))
        square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
        picture = square
    return picture.resize((side, side), Image.Resampling.BILINEAR)


def load_split(root: Path, task: str, split: str, side: int, masked: bool = False) -> TaskImages:
    """Decode the ``split`` of a task at ``side`` x ``side`` pixels.

    masked: decode the masks of its lesions, too.

    Raises:
        ValueError: there are no such pictures, or one of them has no mask.
    """
    rows = read_manifest(root, task)
    labels = tuple(sorted({row["label"] for row in rows}))
    rows = [row for row in rows if row["split"] == split]
    if not rows:
        raise ValueError(f"{root} holds no {split} pictures of {task}")
    contents = read_files(root, [f"{task}/{row['path']}" for row in rows])
    grey = [row.get("grey") == "1" for row in rows]  # only packs say
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
        pictures = list(workers.map(decode, contents, [side] * len(rows), grey))
    channels = max(picture.shape[0] for picture in pictures)
    return TaskImages(
        task,
        labels,
        np.stack([np.broadcast_to(p, (channels, side, side)) for p in pictures]),
        np.array([labels.index(row["label"]) for row in rows], np.int64),
        np.array([row["group"] for row in rows]),
        load_masks(root, task, rows, side) if masked else None,
    )


def load_masks(
    root: Path, task: str, rows: Sequence[Mapping[str, str]], side: int
) -> NDArray[np.uint8]:
    """The lesions of ``rows`` of a task's manifest, (n, 1, side, side) uint8.

    An outline where there is one, else the ellipse that fills the box; nothing for pictures of a
    class without lesions.

    Raises:
        ValueError: one of them has none.
    """
    healthy = HEALTHY.get(task, ())
    there = [bool(row.get("mask") or row.get("box") or row["label"] in healthy) for row in rows]
    if not all(there):
        raise ValueError(
            f"{root}: {there.count(False)} of {len(rows)} pictures of {task} have no lesion mask"
        )
    found = np.zeros((len(rows), 1, side, side), np.uint8)
    outlined = [i for i, row in enumerate(rows) if row.get("mask")]
    contents = read_files(root, [f"{task}/{rows[i]['mask']}" for i in outlined])
    for i, content in zip(outlined, contents, strict=True):
        # In colours of a palette, 0 may be white: what a mask shows counts, not its numbers.
        found[i] = decode(content, side, grey=True)
    boxed = [i for i, row in enumerate(rows) if row.get("box") and not row.get("mask")]
    contents = read_files(root, [f"{task}/{rows[i]['path']}" for i in boxed])
    for i, content in zip(boxed, contents, strict=True):
        with Image.open(io.BytesIO(content)) as picture:
            drawn = ellipse(rows[i]["box"], picture.width, picture.height)
        found[i, 0] = fit_pad(drawn, side)
    return found


def ellipse(box: str, width: int, height: int) -> Image.Image:
    """A mask of ``width`` x ``height`` pixels, white in the ellipse that fills a manifest's box.

    Raises:
        ValueError: the words are no box.
    """
    across, down, wide, high = (float(word) for word in box.split())
    left, top = (across - wide / 2) * width, (down - high / 2) * height
    drawn = Image.new("L", (width, height))
    corners = (left, top, left + wide * width - 1, top + high * height - 1)
    ImageDraw.Draw(drawn).ellipse(tuple(round(one) for one in corners), fill=255)
    return drawn


def decode(content: bytes, side: int, grey: bool = False) -> NDArray[np.uint8]:
    """Decode a picture file to (1 or 3, side, side) uint8.

    grey: it shows no colours, whatever its format says (WebP has no grey mode).
    """
    with Image.open(io.BytesIO(content)) as picture:
        fitted = fit_pad(picture.convert("L" if grey or is_grey(picture) else "RGB"), side)
    pixels = np.asarray(fitted, np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def is_grey(picture: Image.Image) -> bool:
    """True where a picture's mode has no colours."""
    return picture.mode in {"1", "L", "LA", "I", "I;16"}


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


def model_input(
    images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Normalise stored pictures (n, 1 or 3, h, w) uint8 to (n, 3, h, w) float32."""
    scaled = images.astype(np.float32) / 255.0
    shape = (1, 3, 1, 1)
    centre, spread = (np.array(v, np.float32).reshape(shape) for v in (mean, std))
    normalised: NDArray[np.float32] = (scaled - centre) / spread
    return normalised
