"""Train one network on one or more tasks: ``python -m training.train --help``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.architectures import FAMILIES, Family, Network, initialise, load_folded
from training.augment import Augmentation, augment
from training.data import (
    TaskImages,
    class_weights,
    data_root,
    hold_out,
    load_split,
    model_input,
)

PROBE_IMAGES = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run.

    cycles: epochs of each cycle of the learning rate. rates: peak rate of each cycle.
    side: of the network's input, pixels. stored_side: of the decoded pictures, pixels.
    held_out: fraction of the training pictures kept for choosing the epoch.
    init: how the weights began, in words.
    """

    family: str
    tasks: tuple[str, ...]
    cycles: tuple[int, ...] = (15,)
    batch: int = 32
    rates: tuple[float, ...] = (1e-3,)
    weight_decay: float = 0.02
    smoothing: float = 0.05
    held_out: float = 0.12
    side: int = 160
    stored_side: int = 176
    seed: int = 2023
    init: str = "scratch"
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def epochs(self) -> int:
        """Epochs of all cycles."""
        return sum(self.cycles)

    def cycle(self, number: int) -> int:
        """Which cycle epoch ``number`` (from 1) belongs to, from 0."""
        return int(np.searchsorted(np.cumsum(self.cycles), number))


@dataclass(frozen=True)
class Progress:
    """Where a run stands; score: mean balanced accuracy on the held-out part, 0..1."""

    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -1.0
    best_loss: float = float("inf")


@dataclass(frozen=True)
class Part:
    """The pictures to learn from or to choose epochs by, per task."""

    tasks: tuple[TaskImages, ...]

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Shuffled batches, tasks mixed; rows of (task, picture). Drops the incomplete last."""
        index = np.concatenate(
            [
                np.stack([np.full(len(t.targets), i), np.arange(len(t.targets))], axis=1)
                for i, t in enumerate(self.tasks)
            ]
        )
        rng.shuffle(index)
        for start in range(0, len(index) - size + 1, size):
            yield index[start : start + size]


class Trainer:
    """A network, its optimiser and its data, advanced one epoch at a time."""

    def __init__(
        self,
        recipe: Recipe,
        learn: Part,
        choose: Part,
        device: torch.device,
        initial: Mapping[str, Tensor] | None,
    ) -> None:
        self.recipe, self.learn, self.choose, self.device = recipe, learn, choose, device
        self.family: Family = FAMILIES[recipe.family]
        torch.manual_seed(recipe.seed)
        network = Network(self.family, {t.task: t.labels for t in learn.tasks})
        initialise(network, torch.Generator().manual_seed(recipe.seed))
        if initial is not None:
            load_folded(network, initial, self._probe())
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = [torch.from_numpy(class_weights(t)).to(device) for t in learn.tasks]
        pictures = sum(len(t.targets) for t in learn.tasks)
        self.steps = pictures // recipe.batch
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=recipe.rates[0],
        )
        self.begin_cycle(0)

    def begin_cycle(self, cycle: int) -> None:
        """Start a cycle of the learning rate: short warm-up, then a cosine to nothing."""
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            self.recipe.rates[cycle],
            total_steps=self.recipe.cycles[cycle] * self.steps,
            pct_start=0.15,
            cycle_momentum=False,
        )

    def _probe(self) -> Tensor:
        rng = np.random.default_rng(self.recipe.seed)
        rows = next(self.learn.batches(PROBE_IMAGES, rng))
        return self._input(rows, rng)[0]

    def _input(
        self, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        pieces, targets = [], []
        for i, task in enumerate(self.learn.tasks):
            chosen = rows[rows[:, 0] == i, 1]
            if len(chosen):
                pieces.append(
                    augment(task.images[chosen], self.recipe.side, self.recipe.augmentation, rng)
                )
                targets.append((i, torch.from_numpy(task.targets[chosen])))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.family.mean, self.family.std))
        return (torch.cat(pieces) - mean) / std, targets

    def epoch(self, number: int) -> float:
        """Run epoch ``number`` (from 1); the mean training loss."""
        cycle = self.recipe.cycle(number)
        if number > 1 and cycle != self.recipe.cycle(number - 1):
            self.begin_cycle(cycle)
        # Seeded by the epoch, so that a resumed run sees what an unbroken one would.
        rng = np.random.default_rng([self.recipe.seed, number])
        torch.manual_seed(self.recipe.seed * 1000 + number)
        self.network.train()
        losses = []
        for rows in self.learn.batches(self.recipe.batch, rng):
            batch, targets = self._input(rows, rng)
            batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
            loss = self._loss(batch, targets)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimiser.step()
            self.schedule.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _loss(self, batch: Tensor, targets: Sequence[tuple[int, Tensor]]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(batch).logits
        total, start = torch.zeros((), device=self.device), 0
        for i, wanted in targets:
            rows = slice(start, start + len(wanted))
            start = rows.stop
            total = total + F.cross_entropy(
                logits[self.learn.tasks[i].task][rows].float(),
                wanted.to(self.device),
                self.weights[i],
                reduction="sum",
                label_smoothing=self.recipe.smoothing,
            )
        return total / len(batch)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean balanced accuracy (0..1) and mean cross-entropy over the held-out part."""
        self.network.eval()
        scores, losses = [], []
        for task in self.choose.tasks:
            logits = torch.cat(
                [
                    self.network(
                        torch.from_numpy(model_input(images, self.family.mean, self.family.std)).to(
                            self.device
                        )
                    ).logits[task.task]
                    for images in _chunks(_at_side(task.images, self.recipe.side), 32)
                ]
            ).cpu()
            targets = torch.from_numpy(task.targets)
            losses.append(F.cross_entropy(logits, targets).item())
            right = (logits.argmax(1) == targets).numpy()
            scores.append(np.mean([right[task.targets == c].mean() for c in set(task.targets)]))
        return float(np.mean(scores)), float(np.mean(losses))


def _chunks(images: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _at_side(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    resized = F.interpolate(torch.from_numpy(images), (side, side), mode="bilinear", antialias=True)
    return resized.numpy()


def load_parts(root: Path, recipe: Recipe) -> tuple[Part, Part]:
    """The training split of every task, as a part to learn from and one to choose epochs by."""
    rng = np.random.default_rng(recipe.seed)
    divided = [
        hold_out(load_split(root, task, "train", recipe.stored_side), recipe.held_out, rng)
        for task in recipe.tasks
    ]
    return Part(tuple(d[0] for d in divided)), Part(tuple(d[1] for d in divided))


def describe_hardware(device: torch.device) -> str:
    """The hardware in a few words, for the manifest."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores"


def run(trainer: Trainer, out: Path, resume: bool) -> Progress:
    """Train to the end of the recipe, writing ``last.pt`` and ``best.pt`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    progress = _resume(trainer, out / "last.pt") if resume else Progress()
    for number in range(progress.epoch + 1, trainer.recipe.epochs + 1):
        started = time.monotonic()
        training_loss = trainer.epoch(number)
        score, loss = trainer.validate()
        seconds = progress.seconds + time.monotonic() - started
        better = (score, -loss) > (progress.best_score, -progress.best_loss)
        best = (
            (number, score, loss)
            if better
            else (progress.best_epoch, progress.best_score, progress.best_loss)
        )
        progress = Progress(number, seconds, *best)
        print(
            f"epoch {number:2d}  loss {training_loss:.3f}  held out: loss {loss:.3f} "
            f"balanced accuracy {score:.3f}  {seconds:.0f} s{'  best' if better else ''}",
            flush=True,
        )
        if better:
            _save(out / "best.pt", _summary(trainer, progress))
        _save(out / "last.pt", _summary(trainer, progress) | _state(trainer))
    return progress


def _summary(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    return {
        "network": trainer.network.state_dict(),
        "recipe": asdict(trainer.recipe),
        "labels": {t.task: list(t.labels) for t in trainer.learn.tasks},
        "progress": asdict(progress),
        "hardware": describe_hardware(trainer.device),
    }


def _state(trainer: Trainer) -> dict[str, Any]:
    return {
        "optimiser": trainer.optimiser.state_dict(),
        "schedule": trainer.schedule.state_dict(),
    }


def _save(path: Path, checkpoint: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(checkpoint, temporary)
    temporary.replace(path)


def _resume(trainer: Trainer, path: Path) -> Progress:
    if not path.exists():
        return Progress()
    checkpoint = torch.load(path, map_location=trainer.device, weights_only=True)
    if checkpoint["recipe"] != asdict(trainer.recipe):
        raise ValueError(f"{path} was made by another recipe: {checkpoint['recipe']}")
    progress = Progress(**checkpoint["progress"])
    trainer.begin_cycle(trainer.recipe.cycle(progress.epoch))
    trainer.network.load_state_dict(checkpoint["network"])
    trainer.optimiser.load_state_dict(checkpoint["optimiser"])
    trainer.schedule.load_state_dict(checkpoint["schedule"])
    return progress


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument("--tasks", required=True, help="comma-separated data set names")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--init", type=Path, help="state dict with folded batch norms")
    parser.add_argument("--init-origin", default="", help="what --init is, with its licence")
    parser.add_argument("--epochs", default="15", help="of every cycle: 20 or 20,12")
    parser.add_argument("--rate", default="0.001", help="peak learning rate of every cycle")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from --out/last.pt")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(argv)
    recipe = Recipe(
        family=given.family,
        tasks=tuple(given.tasks.split(",")),
        cycles=tuple(int(part) for part in given.epochs.split(",")),
        rates=tuple(float(part) for part in given.rate.split(",")),
        batch=given.batch,
        seed=given.seed,
        init=(given.init_origin or given.init.name) if given.init else "scratch",
    )
    initial = torch.load(given.init, weights_only=True) if given.init else None
    learn, choose = load_parts(data_root(given.data), recipe)
    trainer = Trainer(recipe, learn, choose, torch.device(given.device), initial)
    run(trainer, given.out, given.resume)


if __name__ == "__main__":
    main()
