"""Train a network that finds lesions: ``python -m training.train_segmenter --help``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.architectures import IMAGENET_MEAN, IMAGENET_STD
from training.augment import Augmentation, augment
from training.data import data_root, hold_out, load_split
from training.quality import overlap
from training.runs import (
    Runner,
    Schedule,
    add_arguments,
    limits_given,
    run,
    schedule_arguments,
)
from training.segmenters import SEGMENTERS, initialise_segmenter
from training.train import Part, resized, stored_side

# Skin has no up and down, and slices of a head come any way round.
ANY_WAY_ROUND = Augmentation(rotation=180.0, scale=0.25, shift=0.1, saturation=0.3)


@dataclass(frozen=True, kw_only=True)
class SegmenterRecipe(Schedule):
    """Everything that decides the outcome of a run.

    held_out: fraction of the training pictures, in whole groups, kept for choosing the epoch.
    """

    segmenter: str
    tasks: tuple[str, ...]
    task_power: float = 0.5
    held_out: float = 0.12
    augmentation: Augmentation = field(default_factory=lambda: ANY_WAY_ROUND)


def segmentation_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of every pixel, and 1 less the Dice overlap of every picture.

    logits, wanted: (N, 1, rows, columns); wanted in 0..1. Dice counts a small lesion as much as
    a large one (Milletari et al. 2016); cross-entropy alone would give it up.
    """
    doubt = F.binary_cross_entropy_with_logits(logits, wanted)
    chance = torch.sigmoid(logits)
    both = (chance * wanted).sum(dim=(1, 2, 3))
    sizes = (chance + wanted).sum(dim=(1, 2, 3))
    return doubt + (1.0 - (2.0 * both + 1.0) / (sizes + 1.0)).mean()


def distorted(
    images: Tensor, masks: Tensor, side: int, how: Augmentation, seed: int
) -> tuple[Tensor, Tensor]:
    """Distort pictures (n, 1 or 3, h, w) uint8 and, by the same geometry, their masks.

    Returns (n, 3, side, side) in 0..1 and (n, 1, side, side) in 0..1. The masks keep their tone,
    and the same seed draws the same geometry, which is drawn first.
    """
    untoned = replace(
        how, contrast=0.0, brightness=0.0, gamma=0.0, saturation=0.0, noise=0.0, jpeg=0.0
    )

    def drawn() -> torch.Generator:
        return torch.Generator(images.device).manual_seed(seed)

    return augment(images, side, how, drawn()), augment(masks, side, untoned, drawn())[:, :1]


def normalised(scaled: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in 0..1 as a segmenter takes them."""
    mean, std = (
        torch.tensor(v, device=scaled.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)


class SegmenterTrainer(Runner):
    """A segmentation network in training."""

    def __init__(
        self, recipe: SegmenterRecipe, learn: Part, choose: Part, device: torch.device
    ) -> None:
        """The pictures must be at ``stored_side`` of the schedule's largest side, with masks."""
        self.schedule = self.recipe = recipe
        self.learn, self.choose, self.device = learn, choose, device
        self.shares = learn.shares(recipe.task_power, 1.0)
        self.begin_cycle(0)
        torch.manual_seed(recipe.seed)
        network = SEGMENTERS[recipe.segmenter]()
        initialise_segmenter(network, torch.Generator().manual_seed(recipe.seed))
        self.prepare(network)

    def begin_cycle(self, cycle: int) -> None:
        """Bring pictures and masks to the size of a cycle, on the device."""
        self.side = self.recipe.sides[cycle]
        self.pictures = self._at(self.learn, stored_side(self.side))
        self.held = self._at(self.choose, self.side)
        self.steps = len(self.learn) // self.recipe.batch

    def _at(self, part: Part, side: int) -> list[tuple[Tensor, Tensor]]:
        found = []
        for task in part.tasks:
            assert task.masks is not None
            pair = (torch.from_numpy(one) for one in (task.images, task.masks))
            images, masks = (resized(one, side, self.device) for one in pair)
            found.append((images, masks))
        return found

    def _input(self, rows: NDArray[np.int64], seeds: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distorted pictures and masks of a batch."""
        pieces = []
        for i, (images, masks) in enumerate(self.pictures):
            chosen = torch.from_numpy(rows[rows[:, 0] == i, 1]).to(self.device)
            if len(chosen):
                drawn = torch.randint(1 << 62, (1,), generator=seeds, device=seeds.device)
                pieces.append(
                    distorted(
                        images[chosen],
                        masks[chosen],
                        self.side,
                        self.recipe.augmentation,
                        int(drawn),
                    )
                )
        return torch.cat([image for image, _ in pieces]), torch.cat([mask for _, mask in pieces])

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of every batch of one epoch."""
        for rows in self.learn.batches(self.recipe.batch, self.shares, rng):
            pictures, wanted = self._input(rows, generator)
            with self.autocast():
                logits = self.network(normalised(pictures))
            yield segmentation_loss(logits.float(), wanted)

    @torch.no_grad()
    def validate(self) -> tuple[float, float, str]:
        """Mean intersection over union, the loss, and both with Dice in words; held-out part."""
        self.network.eval()
        alike, losses = [], []
        for images, masks in self.held:
            for some, truth in zip(torch.split(images, 32), torch.split(masks, 32), strict=True):
                wanted = truth.float() / 255.0
                with self.autocast():
                    logits = self.network(normalised(some.float().expand(-1, 3, -1, -1) / 255.0))
                losses.append(float(segmentation_loss(logits.float(), wanted)) * len(some))
                alike.append(overlap((logits > 0).float(), wanted))
        each = torch.cat(alike).cpu().double()
        score, loss = float(each.mean()), sum(losses) / len(each)
        dice = float((2.0 * each / (1.0 + each)).mean())
        return score, loss, f"loss {loss:.3f}  IoU {score:.3f}  Dice {dice:.3f}"

    def facts(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and progress."""
        return {"kind": "segmenter"}


def load_outlined(root: Path, recipe: SegmenterRecipe) -> tuple[Part, Part]:
    """The training split of every task with its masks, to learn from and to choose epochs by."""
    rng = np.random.default_rng(recipe.seed)
    side = stored_side(max(recipe.sides))
    divided = [
        hold_out(load_split(root, task, "train", side, masked=True), recipe.held_out, rng)
        for task in recipe.tasks
    ]
    return Part(tuple(d[0] for d in divided)), Part(tuple(d[1] for d in divided))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train_segmenter", description=__doc__)
    parser.add_argument("--segmenter", required=True, choices=sorted(SEGMENTERS))
    add_arguments(parser)
    parser.set_defaults(side="128", batch=16)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(argv)
    recipe = SegmenterRecipe(
        segmenter=given.segmenter,
        tasks=tuple(given.tasks.split(",")),
        weight_decay=1e-4,
        **schedule_arguments(given),
    )
    limits = limits_given(given)
    learn, choose = load_outlined(data_root(given.data), recipe)
    trainer = SegmenterTrainer(recipe, learn, choose, torch.device(given.device))
    run(trainer, given.out, given.resume, limits)


if __name__ == "__main__":
    main()
