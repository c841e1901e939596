"""Train one classifier on one or more tasks: ``python -m training.train --help``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.architectures import FAMILIES, Family, Network, initialise, load_folded
from training.augment import Augmentation, augment
from training.data import TaskImages, data_root, hold_out, load_split
from training.runs import (
    Runner,
    Schedule,
    add_arguments,
    limits_given,
    run,
    schedule_arguments,
)
from training.weights import load_shipped, read_weights

PROBE_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """Everything that decides the outcome of a run.

    task_power, class_power: a task (a class of it) is seen as often as its number of pictures
    to this power says; what that leaves uneven between the classes of a task, the loss evens
    out. focal: exponent of the focal loss (Lin et al. 2017), 0 for cross-entropy. held_out:
    fraction of the training pictures kept for choosing the epoch. further: whether ``init`` is a
    model of the same architecture, with its heads.
    """

    family: str
    tasks: tuple[str, ...]
    task_power: float = 0.5
    class_power: float = 0.5
    focal: float = 0.0
    smoothing: float = 0.05
    held_out: float = 0.12
    further: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)


def stored_side(side: int) -> int:
    """Side at which pictures are kept for an input of ``side``: a tenth more, to rotate in."""
    return side + side // 10


@dataclass(frozen=True)
class Part:
    """The pictures to learn from or to choose epochs by, per task."""

    tasks: tuple[TaskImages, ...]

    def __len__(self) -> int:
        return sum(len(t.targets) for t in self.tasks)

    def index(self) -> NDArray[np.int64]:
        """All pictures, as rows of (task, picture)."""
        pairs = [
            np.stack([np.full(len(t.targets), i), np.arange(len(t.targets))], axis=1)
            for i, t in enumerate(self.tasks)
        ]
        return np.concatenate(pairs)

    def shares(self, task_power: float, class_power: float) -> NDArray[np.float64]:
        """How often each picture (in the order of ``index``) is seen; 1 in all."""
        task_share = np.array([len(t.targets) ** task_power for t in self.tasks])
        task_share = task_share / task_share.sum()
        pieces = []
        for share, task in zip(task_share, self.tasks, strict=True):
            counts = np.bincount(task.targets, minlength=len(task.labels))
            per_picture = class_shares(counts, class_power) / np.maximum(counts, 1)
            pieces.append(share * per_picture[task.targets])
        return np.concatenate(pieces)

    def batches(
        self, size: int, shares: NDArray[np.float64], rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Shuffled batches of one epoch, tasks mixed; rows of (task, picture).

        A picture comes ``shares`` times the number of all pictures, rounded up or down at
        random. There are always as many batches as fit into the number of all pictures.
        """
        wanted = shares * len(shares)
        copies = np.floor(wanted + rng.random(len(wanted))).astype(np.int64)
        order = np.repeat(np.arange(len(shares)), copies)
        total = len(shares) // size * size
        missing = max(total - len(order), 0)
        order = np.concatenate([order, rng.choice(len(shares), missing, p=shares)])
        rng.shuffle(order)
        index = self.index()
        for start in range(0, total, size):
            yield index[order[start : start + size]]


def class_shares(counts: NDArray[np.int64], power: float) -> NDArray[np.float64]:
    """How often each class of a task is seen, 1 in all: in proportion to counts ** power."""
    raised = np.where(counts > 0, counts.astype(np.float64) ** power, 0.0)
    shares: NDArray[np.float64] = raised / raised.sum()
    return shares


def loss_weights(images: TaskImages, power: float) -> NDArray[np.float32]:
    """Weight per class that evens out what sampling leaves uneven; 1 on average."""
    counts = np.bincount(images.targets, minlength=len(images.labels))
    shares = class_shares(counts, power)
    weights = np.where(shares > 0, 1.0 / (len(counts) * np.maximum(shares, 1e-12)), 0.0)
    return weights.astype(np.float32)


def classification_loss(
    logits: Tensor, wanted: Tensor, weights: Tensor, smoothing: float, focal: float
) -> Tensor:
    """Sum of the weighted losses of (N, classes) logits: smoothed cross-entropy or focal."""
    losses = F.cross_entropy(logits, wanted, reduction="none", label_smoothing=smoothing)
    if focal:
        sure = logits.softmax(1).gather(1, wanted[:, None])[:, 0]
        losses = losses * (1.0 - sure).clamp_min(1e-6) ** focal
    return (losses * weights[wanted]).sum()


class Trainer(Runner):
    """A classifier in training."""

    def __init__(
        self,
        recipe: Recipe,
        learn: Part,
        choose: Part,
        device: torch.device,
        initial: Mapping[str, Tensor] | None,
    ) -> None:
        """The pictures must be at ``stored_side`` of the schedule's largest side."""
        self.schedule = self.recipe = recipe
        self.learn, self.choose, self.device = learn, choose, device
        self.family: Family = FAMILIES[recipe.family]
        self.labels = {t.task: t.labels for t in learn.tasks}
        power = recipe.class_power
        self.shares = learn.shares(recipe.task_power, power)
        self.weights = [torch.from_numpy(loss_weights(t, power)).to(device) for t in learn.tasks]
        self.targets = [torch.from_numpy(t.targets).to(device) for t in learn.tasks]
        self.begin_cycle(0)
        torch.manual_seed(recipe.seed)
        network = Network(self.family, self.labels)
        initialise(network, torch.Generator().manual_seed(recipe.seed))
        if initial is not None:
            load = load_shipped if recipe.further else load_folded
            load(network.to(device), initial, self._probe())
        self.prepare(network)

    def begin_cycle(self, cycle: int) -> None:
        """Bring the pictures to the size of a cycle, on the device."""
        self.side = self.recipe.sides[cycle]
        stored = stored_side(self.side)
        self.pictures = [
            resized(torch.from_numpy(t.images), stored, self.device) for t in self.learn.tasks
        ]
        self.held = [
            resized(torch.from_numpy(t.images), self.side, self.device) for t in self.choose.tasks
        ]
        self.steps = len(self.learn) // self.recipe.batch

    def _probe(self) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
        rng = np.random.default_rng(self.recipe.seed)
        rows = next(self.learn.batches(min(PROBE_IMAGES, len(self.learn)), self.shares, rng))
        return self._input(rows, generator)[0]

    def _input(
        self, rows: NDArray[np.int64], generator: torch.Generator
    ) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """The distorted pictures of a batch, task by task, and per task what they show."""
        pieces, targets = [], []
        for i, task in enumerate(self.pictures):
            chosen = torch.from_numpy(rows[rows[:, 0] == i, 1]).to(self.device)
            if len(chosen):
                pieces.append(augment(task[chosen], self.side, self.recipe.augmentation, generator))
                targets.append((i, self.targets[i][chosen]))
        return self._normalised(torch.cat(pieces)), targets

    def _normalised(self, scaled: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(v, device=scaled.device).view(3, 1, 1)
            for v in (self.family.mean, self.family.std)
        )
        return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of every batch of one epoch."""
        for rows in self.learn.batches(self.recipe.batch, self.shares, rng):
            batch, targets = self._input(rows, generator)
            with self.autocast():
                logits = self.network(batch).logits
            total, start = torch.zeros((), device=self.device), 0
            for i, wanted in targets:
                own = slice(start, start + len(wanted))
                start = own.stop
                total = total + classification_loss(
                    logits[self.learn.tasks[i].task][own].float(),
                    wanted,
                    self.weights[i],
                    self.recipe.smoothing,
                    self.recipe.focal,
                )
            yield total / len(batch)

    @torch.no_grad()
    def validate(self) -> tuple[float, float, str]:
        """Mean over tasks of balanced accuracy (0..1) and of cross-entropy, held-out part."""
        self.network.eval()
        scores, losses = [], []
        for i, task in enumerate(self.choose.tasks):
            logits = self._logits(i)
            targets = torch.from_numpy(task.targets)
            losses.append(F.cross_entropy(logits, targets).item())
            right = (logits.argmax(1) == targets).numpy()
            scores.append(
                float(np.mean([right[task.targets == c].mean() for c in set(task.targets)]))
            )
        score, loss = float(np.mean(scores)), float(np.mean(losses))
        each = " ".join(f"{value:.2f}" for value in scores)
        return score, loss, f"loss {loss:.3f} balanced accuracy {score:.3f} ({each})"

    def _logits(self, i: int) -> Tensor:
        answers = []
        for chunk in torch.split(self.held[i], 32 if self.device.type == "cpu" else 256):
            scaled = chunk.float().expand(-1, 3, -1, -1) / 255.0
            with self.autocast():
                outputs = self.network(self._normalised(scaled))
            answers.append(outputs.logits[self.choose.tasks[i].task].float().cpu())
        return torch.cat(answers)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and progress."""
        labels = {task: list(names) for task, names in self.labels.items()}
        return {"kind": "classifier", "labels": labels}


def resized(images: Tensor, side: int, device: torch.device) -> Tensor:
    """Pictures (n, c, h, w) uint8 at ``side`` x ``side`` pixels on ``device``."""
    if images.shape[2:] == (side, side):
        return images.to(device)
    pieces = []
    for chunk in torch.split(images, 256):
        smaller = F.interpolate(
            chunk.to(device).float(), (side, side), mode="bilinear", antialias=True
        )
        pieces.append(smaller.round().clamp(0, 255).byte())
    return torch.cat(pieces)


def load_parts(root: Path, recipe: Recipe) -> tuple[Part, Part]:
    """The training split of every task, as a part to learn from and one to choose epochs by."""
    rng = np.random.default_rng(recipe.seed)
    side = stored_side(max(recipe.sides))
    divided = [
        hold_out(load_split(root, task, "train", side), recipe.held_out, rng)
        for task in recipe.tasks
    ]
    return Part(tuple(d[0] for d in divided)), Part(tuple(d[1] for d in divided))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    add_arguments(parser)
    parser.add_argument("--focal", type=float, default=0.0, help="exponent of the focal loss")
    parser.add_argument("--decay", type=float, default=Recipe.weight_decay, help="of the weights")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--init", type=Path, help="state dict with folded batch norms")
    begin.add_argument("--further", type=Path, help="model.onnx of the same family, to go on from")
    parser.add_argument(
        "--held-out",
        type=float,
        default=Recipe.held_out,
        help="fraction of the training pictures to choose the epoch by",
    )
    parser.add_argument("--init-origin", default="", help="what --init is, with its licence")
    return parser


def initial_words(given: argparse.Namespace) -> str:
    """Where the weights began, for the manifest."""
    if given.further:
        return f"the {given.family} of before, that began with: {given.init_origin or 'scratch'}"
    return (given.init_origin or given.init.name) if given.init else "scratch"


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(argv)
    recipe = Recipe(
        family=given.family,
        tasks=tuple(given.tasks.split(",")),
        focal=given.focal,
        weight_decay=given.decay,
        init=initial_words(given),
        further=given.further is not None,
        held_out=given.held_out,
        **schedule_arguments(given),
    )
    limits = limits_given(given)
    initial = None
    if given.further:
        initial = read_weights(given.further)
    elif given.init:
        initial = torch.load(given.init, weights_only=True)
    learn, choose = load_parts(data_root(given.data), recipe)
    trainer = Trainer(recipe, learn, choose, torch.device(given.device), initial)
    run(trainer, given.out, given.resume, limits)


if __name__ == "__main__":
    main()
