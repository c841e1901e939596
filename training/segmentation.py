"""What the segmentation networks find: ``python -m training.segmentation onnx_models/skin-lesion``.

Pictures of the test split, at the size of the network's input, against the outlines that people
drew. Also writes a sheet to look at (``--sheet FILE.png``).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data import TaskImages, data_root, load_split, model_input
from training.quality import overlap
from training.removal import open_session

BATCH = 16
LIKELY = 0.5
"""Probability from which a pixel counts as lesion, as in miad's profiles."""
SHEET_ROWS = 10
TRUTH_COLOUR, FOUND_COLOUR = (0, 220, 0), (255, 220, 0)

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SegmentationFigures:
    """How well lesions are found, on average over the pictures of a task; fractions 0..1.

    accuracy: pixels that are right. iou, dice: overlap of the mask with the outline; where neither
    marks anything they agree. uncovered: part of the outlined lesion that lies outside the boxes
    around the mask, where a logo may go; over the pictures with a lesion. box_area: area of these
    boxes, all pictures together, relative to that of the boxes around the outlines; above 1 the
    boxes are too large. false_finds: share of the pictures without a lesion in which one is found;
    None where all have one.
    """

    task: str
    split: str
    images: int
    accuracy: float
    iou: float
    dice: float
    uncovered: float
    box_area: float
    false_finds: float | None = None

    def entry(self, name: str) -> dict[str, Any]:
        """The entry in the manifest of model ``name``."""
        figures = {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value is not None
        }
        return figures | {"command": f"python -m training.check onnx_models/{name} --data DIR"}


def chances(
    path: Path, images: TaskImages, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Probability of being lesion of every pixel, (n, rows, columns), by ONNX Runtime."""
    runner = open_session(path)
    pieces = []
    for start in range(0, len(images.targets), BATCH):
        fed = model_input(images.images[start : start + BATCH], mean, std)
        (logits,) = runner.run(["mask"], {"input": fed})
        pieces.append(torch.sigmoid(torch.from_numpy(logits[:, 0])).numpy())
    return np.concatenate(pieces)


def outlines(images: TaskImages) -> Bools:
    """Where people saw a lesion, (n, rows, columns)."""
    if images.masks is None:
        raise ValueError(f"{images.task}: the masks were not loaded")
    drawn: Bools = images.masks[:, 0] > 127
    return drawn


def measure_segmentation(
    path: Path,
    task: str,
    images: TaskImages,
    mean: Sequence[float],
    std: Sequence[float],
    likely: float = LIKELY,
) -> SegmentationFigures:
    """Measure a network's file on pictures of the test split, loaded with their masks."""
    found, truth = chances(path, images, mean, std) >= likely, outlines(images)
    same = overlap(*(torch.from_numpy(one[:, None].astype(np.float32)) for one in (found, truth)))
    alike = same.double()
    boxed, fitting = (np.stack([covered(one) for one in every]) for every in (found, truth))
    missed = [
        float((outline & ~box).sum() / outline.sum())
        for outline, box in zip(truth, boxed, strict=True)
        if outline.any()
    ]
    elsewhere = [
        bool(one.any()) for one, outline in zip(found, truth, strict=True) if not outline.any()
    ]
    return SegmentationFigures(
        task=task,
        split="test",
        images=len(truth),
        accuracy=float((found == truth).mean()),
        iou=float(alike.mean()),
        dice=float((2.0 * alike / (1.0 + alike)).mean()),
        uncovered=float(np.mean(missed)),
        box_area=float(boxed.sum() / max(fitting.sum(), 1)),
        false_finds=float(np.mean(elsewhere)) if elsewhere else None,
    )


def boxes_around(mask: Bools) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) around the parts of a mask, as miad makes them."""
    from miad_cli.watermark.lesions import boxes_above

    boxes = boxes_above(mask.astype(np.float32), 1.0)
    return [(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]


def covered(mask: Bools) -> Bools:
    """What the boxes around the parts of a mask (rows, columns) cover."""
    inside = np.zeros_like(mask)
    for left, top, right, bottom in boxes_around(mask):
        inside[top:bottom, left:right] = True
    return inside


def sheet(
    path: Path, images: TaskImages, mean: Sequence[float], std: Sequence[float]
) -> Image.Image:
    """Pictures to look at: a row each of the picture, the outline, what the network finds (white
    is certain), and the picture with the boxes around either."""
    found, truth = chances(path, images, mean, std), outlines(images)
    rows = []
    for pixels, outline, chance in zip(images.images, truth, found, strict=True):
        shown = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
        boxed = Image.fromarray(np.ascontiguousarray(shown))
        pen = ImageDraw.Draw(boxed)
        for mask, colour in ((outline, TRUTH_COLOUR), (chance >= LIKELY, FOUND_COLOUR)):
            for left, top, right, bottom in boxes_around(mask):
                pen.rectangle((left, top, right - 1, bottom - 1), outline=colour)
        greys = [np.repeat(one[..., None], 3, axis=2) for one in (outline * 1.0, chance)]
        tiles = [shown, *((grey * 255).round().astype(np.uint8) for grey in greys)]
        rows.append(np.concatenate([*tiles, np.asarray(boxed)], axis=1))
    return Image.fromarray(np.concatenate(rows))


def some(images: TaskImages, count: int, seed: int = 0) -> TaskImages:
    """Up to ``count`` pictures, drawn at random, the same ones every time."""
    chosen = np.zeros(len(images.targets), bool)
    chosen[np.random.default_rng(seed).permutation(len(chosen))[:count]] = True
    return images.take(chosen)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.segmentation", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a segmentation network")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--likely", type=float, default=LIKELY, help="probability that counts")
    parser.add_argument("--limit", type=int, help="so many pictures a task")
    parser.add_argument("--sheet", type=Path, help=f"only write this PNG, of {SHEET_ROWS} pictures")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures, or write the sheet."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    about = tomllib.loads((given.folder / "manifest.toml").read_text(encoding="utf-8"))
    path, spec = given.folder / about["file"], about["input"]
    for task in dict.fromkeys(entry["task"] for entry in about["data"]):
        images = load_split(root, task, "test", spec["rows"], masked=True)
        if given.sheet:
            sheet(path, some(images, SHEET_ROWS), spec["mean"], spec["std"]).save(given.sheet)
            print(given.sheet)
            return
        images = some(images, given.limit) if given.limit else images
        figures = measure_segmentation(path, task, images, spec["mean"], spec["std"], given.likely)
        entry = figures.entry(about["name"])
        print("  ".join(f"{key} {value}" for key, value in entry.items() if key != "command"))


if __name__ == "__main__":
    main()
