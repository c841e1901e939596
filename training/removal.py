"""What the removal networks achieve: ``python -m training.removal onnx_models/wdnet ...``.

Pictures of the test split are marked with logos that no network has seen, without any
protection, and given to each network. Also writes a sheet to look at (``--sheet FILE.png``).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from training.data import TaskImages, data_root, load_split
from training.marks import Marked, Marking, logo_bank, mark
from training.quality import overlap, psnr, ssim

# Neither learned from (the seed of the run) nor chosen by (the seed after it).
LOGO_SEED, LOGOS = 70_001, 128
BATCH = 8


@dataclass(frozen=True)
class RemovalFigures:
    """What is left after removal, on average over the pictures of a task.

    psnr (dB), ssim: of the result to the original; marked_psnr: of the marked picture. mask_iou:
    of the mask. clean_accuracy, marked_accuracy, accuracy: of classifiers on the original, the
    marked picture and the result; 0..1, mean over ``classifiers`` models.
    """

    task: str
    split: str
    images: int
    psnr: float
    ssim: float
    mask_iou: float
    marked_psnr: float
    clean_accuracy: float
    marked_accuracy: float
    accuracy: float
    classifiers: int

    def entry(self, name: str) -> dict[str, Any]:
        """The entry in the manifest of model ``name``."""
        entry: dict[str, Any] = {"task": self.task, "split": self.split, "images": self.images}
        for key in ("accuracy", "clean_accuracy", "marked_accuracy", "ssim", "mask_iou"):
            entry[key] = round(float(getattr(self, key)), 4)
        entry |= {"psnr": round(self.psnr, 2), "marked_psnr": round(self.marked_psnr, 2)}
        entry["classifiers"] = self.classifiers
        command = f"python -m training.removal onnx_models/{name} --data DIR --limit {self.images}"
        return entry | {"command": command}


class Judge:
    """A classifier, asked about pictures in 0..1 at any size."""

    def __init__(self, folder: Path, task: str) -> None:
        described = tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
        self.input, self.task = described["input"], task
        self.tensor = next(o["tensor"] for o in described["outputs"] if o["task"] == task)
        self.runner = open_session(folder / described["file"])

    def answers(self, pictures: Tensor) -> NDArray[np.int64]:
        """The predicted class of (N, 3, side, side) pictures, (N,)."""
        size = (self.input["rows"], self.input["columns"])
        if pictures.shape[2:] != size:
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(self.input[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
        fed = ((pictures - mean) / std).numpy()
        logits: NDArray[np.float32] = self.runner.run([self.tensor], {"input": fed})[0]
        predicted: NDArray[np.int64] = logits.argmax(1)
        return predicted


class RemovalNetwork:
    """An exported removal network."""

    def __init__(self, path: Path) -> None:
        self.runner = open_session(path)

    def __call__(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """Picture, rounded to 8 bits, and mask for (N, 3, side, side) in 0..1."""
        image, mask = self.runner.run(["image", "mask"], {"input": marked.numpy()})
        return torch.round(torch.from_numpy(image) * 255.0) / 255.0, torch.from_numpy(mask)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model for inference on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def beside(out: Path, task: str) -> list[Path]:
    """The classifiers for ``task`` in the folders beside ``out``."""
    found = []
    for path in sorted(out.resolve().parent.glob("*/manifest.toml")):
        described = tomllib.loads(path.read_text(encoding="utf-8"))
        tasks = [output.get("task") for output in described["outputs"]]
        if described["role"] == "classifier" and task in tasks:
            found.append(path.parent)
    return found


def marked_batches(
    images: TaskImages, limit: int | None, draw: int = 0
) -> Iterator[tuple[Marked, NDArray[np.int64]]]:
    """Marked pictures of a task with their classes, in batches; the same for the same draw."""
    generator = torch.Generator().manual_seed(LOGO_SEED + draw)
    bank = torch.from_numpy(logo_bank(LOGOS, LOGO_SEED))
    order = np.random.default_rng(LOGO_SEED + draw).permutation(len(images.targets))[:limit]
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        clean = torch.from_numpy(images.images[rows]).float().expand(-1, 3, -1, -1) / 255.0
        colour = torch.full((len(rows),), images.images.shape[1] == 3)
        yield mark(clean, bank, Marking(), generator, colour), images.targets[rows]


@torch.no_grad()
def measure_removal(
    path: Path, task: str, images: TaskImages, judges: Sequence[Path], limit: int | None = None
) -> RemovalFigures:
    """Measure a removal network's file on pictures of the test split.

    judges: folders of classifiers that know the task. limit: largest number of pictures.

    Raises:
        ValueError: there is no classifier to judge by.
    """
    if not judges:
        raise ValueError(f"no classifier for {task}: name some with --classifiers")
    network, asked = RemovalNetwork(path), [Judge(folder, task) for folder in judges]
    noise, right = [], []
    for marked, targets in marked_batches(images, limit):
        image, mask = network(marked.image)
        figures = (
            psnr(image, marked.clean),
            ssim(image, marked.clean),
            overlap(mask, marked.mask),
            psnr(marked.image, marked.clean),
        )
        noise.append(torch.stack([value.double() for value in figures], dim=1))
        for judge in asked:
            answers = [judge.answers(x) for x in (marked.clean, marked.image, image)]
            right.append(np.stack([answer == targets for answer in answers], axis=1))
    decibels, alike, same, marked_decibels = torch.cat(noise).mean(dim=0).tolist()
    clean_accuracy, marked_accuracy, accuracy = np.concatenate(right).mean(axis=0).tolist()
    return RemovalFigures(
        task=task,
        split="test",
        images=sum(len(part) for part in noise),
        psnr=decibels,
        ssim=alike,
        mask_iou=same,
        marked_psnr=marked_decibels,
        clean_accuracy=clean_accuracy,
        marked_accuracy=marked_accuracy,
        accuracy=accuracy,
        classifiers=len(asked),
    )


@torch.no_grad()
def sheet(
    networks: Sequence[RemovalNetwork], sets: Sequence[TaskImages], count: int
) -> Image.Image:
    """Pictures to look at, ``count`` in all: a row each of the original, the marked picture, and
    every network's result and mask."""
    rows = []
    for i in range(count):
        marked = next(marked_batches(sets[i % len(sets)], 1, draw=i))[0]
        tiles = [marked.clean, marked.image]
        for network in networks:
            image, mask = network(marked.image)
            tiles += [image, mask.expand(-1, 3, -1, -1)]
        rows.append(torch.cat(tiles, dim=3)[0])
    pixels = (torch.cat(rows, dim=1) * 255.0).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.removal", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of removal networks")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--tasks", help="comma-separated; default: those of the manifest")
    parser.add_argument("--classifiers", type=Path, nargs="*", help="default: those beside")
    parser.add_argument("--limit", type=int, help="so many pictures a task")
    parser.add_argument("--sheet", type=Path, help="only write this PNG, of ten pictures")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or write the sheet."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    described = {
        folder: tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
        for folder in given.folders
    }
    first = described[given.folders[0]]
    side = first["input"]["rows"]
    tasks = given.tasks.split(",") if given.tasks else list(_tasks(first))
    if given.sheet:
        networks = [RemovalNetwork(folder / d["file"]) for folder, d in described.items()]
        sets = [load_split(root, task, "test", side) for task in tasks]
        sheet(networks, sets, 10).save(given.sheet)
        print(given.sheet)
        return
    print(
        f"{'network':14} {'task':12} {'images':>6} {'PSNR':>6} {'SSIM':>7} {'IoU':>6}  "
        f"{'marked PSNR':>11}  accuracy: clean, marked, removed"
    )
    for folder, about in described.items():
        for task in tasks:
            images = load_split(root, task, "test", side)
            judges = given.classifiers or beside(folder, task)
            figures = measure_removal(folder / about["file"], task, images, judges, given.limit)
            print(
                f"{about['name']:14} {task:12} {figures.images:6d} {figures.psnr:6.2f} "
                f"{figures.ssim:7.4f} {figures.mask_iou:6.3f}  {figures.marked_psnr:11.2f}  "
                f"{figures.clean_accuracy:.3f}, {figures.marked_accuracy:.3f}, "
                f"{figures.accuracy:.3f}",
                flush=True,
            )


def _tasks(described: dict[str, Any]) -> dict[str, None]:
    return {entry["task"]: None for entry in described["data"]}


if __name__ == "__main__":
    main()
