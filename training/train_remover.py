"""Train a network that removes visible marks: ``python -m training.train_remover --help``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures import FAMILIES, Network, fold_norms
from training.data import data_root, hold_out, load_split
from training.marks import Marked, Marking, logo_bank, mark
from training.quality import overlap, psnr, ssim
from training.removers import REMOVERS, Removed, initialise_remover
from training.runs import (
    Runner,
    Schedule,
    add_arguments,
    limits_given,
    run,
    schedule_arguments,
)
from training.train import Part
from training.weights import load_shipped, read_weights

# Marks that are measured have other logos than those that are learned.
LEARNED_LOGOS, CHOOSING_LOGOS = 2048, 64
CHOOSING_PICTURES = 96
PROBE_PICTURES = 16


@dataclass(frozen=True, kw_only=True)
class RemoverRecipe(Schedule):
    """Everything that decides the outcome of a run.

    picture_side: of the whole pictures that are marked, pixels; where the schedule's side is
    smaller, the network sees a crop of it. unmarked: fraction of pictures without a mark.
    likeness: weight of how far the result is from the original in the eyes of a classifier's
    layers (the perceptual loss of both papers, with a network of our own). favoured: tasks seen
    twice as often.
    """

    remover: str
    tasks: tuple[str, ...]
    picture_side: int = 224
    unmarked: float = 0.04
    task_power: float = 0.5
    held_out: float = 0.12
    likeness: float = 0.0
    favoured: tuple[str, ...] = ()
    marking: Marking = field(default_factory=Marking)


def removal_loss(found: Removed, marked: Marked) -> Tensor:
    """The loss of a batch: how far picture, mask, mark and opacity are from the truth.

    Errors inside the mark are averaged over its own area, so that small marks count as well.
    """
    area = marked.mask.sum().clamp_min(1.0)

    def inside(error: Tensor) -> Tensor:
        return (error.abs() * marked.mask).sum() / (area * error.shape[1])

    total = inside(found.image - marked.clean) + inside(found.refined - marked.clean)
    total = total + 0.6 * inside(found.coarse - marked.clean)
    total = total + 10.0 * (found.image - marked.clean).abs().mean()
    total = total + 0.3 * (1.0 - ssim(found.image, marked.clean).mean())
    total = total + mask_loss(found.mask, marked.mask) + 0.3 * inside(found.mark - marked.mark)
    if found.alpha is not None:
        total = total + 0.6 * inside(found.alpha - marked.alpha)
    return total


def mask_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the mask, and 1 less its overlap, which no empty mask makes small."""
    doubt = F.binary_cross_entropy(found.clamp(1e-5, 1.0 - 1e-5), wanted)
    both = (found * wanted).sum()
    either = found.sum() + wanted.sum() - both
    return doubt + 0.5 * (1.0 - (both + 1.0) / (either + 1.0))


def in_float32(found: Removed) -> Removed:
    """What a network found in bfloat16, for a loss that needs more."""
    alpha = None if found.alpha is None else found.alpha.float()
    image, mask, coarse, refined, logo = (part.float() for part in found[:5])
    return Removed(image, mask, coarse, refined, logo, alpha)


class Judge:
    """How far two pictures are from each other in the eyes of a classifier's layers."""

    def __init__(self, path: Path, family: str, device: torch.device) -> None:
        """path: of a ``model.onnx`` of that family."""
        weights = read_weights(path)
        labels = {
            name.split(".")[1]: range(len(bias))
            for name, bias in weights.items()
            if name.startswith("heads.") and name.endswith(".bias")
        }
        network = Network(FAMILIES[family], {task: [*map(str, n)] for task, n in labels.items()})
        network.eval()
        fold_norms(network)
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        trunk = network.trunk.requires_grad_(False)
        assert isinstance(trunk, nn.Sequential)
        self.layers = trunk.to(device, memory_format=torch.channels_last)
        self.scale = [
            torch.tensor(v, device=device).view(3, 1, 1)
            for v in (FAMILIES[family].mean, FAMILIES[family].std)
        ]

    def __call__(self, got: Tensor, wanted: Tensor) -> Tensor:
        """Mean over layers of the distance between (N, 3, h, w) pictures, as a share of what the
        layer sees in ``wanted``."""
        mean, std = self.scale
        a, b = (got - mean) / std, (wanted - mean) / std
        total, count = torch.zeros((), device=got.device), 0
        for layer in self.layers:
            a = layer(a)
            with torch.no_grad():
                b = layer(b)
            if not isinstance(layer, nn.MaxPool2d):
                apart, size = (a - b).float().abs().mean(), b.float().abs().mean()
                total, count = total + apart / (size + 1e-6), count + 1
        return total / count


class RemoverTrainer(Runner):
    """A removal network in training."""

    def __init__(
        self,
        recipe: RemoverRecipe,
        learn: Part,
        choose: Part,
        device: torch.device,
        initial: Mapping[str, Tensor] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.schedule = self.recipe = recipe
        self.learn, self.choose, self.device = learn, choose, device
        self.pictures = [torch.from_numpy(t.images).to(device) for t in learn.tasks]
        self.judge = judge
        self.shares = learn.shares(recipe.task_power, 1.0)
        often = [2.0 if t.task in recipe.favoured else 1.0 for t in learn.tasks]
        self.shares *= np.repeat(often, [len(t.targets) for t in learn.tasks])
        self.shares /= self.shares.sum()
        bank = logo_bank(LEARNED_LOGOS, recipe.seed)
        self.bank = torch.from_numpy(bank).to(device)
        self.begin_cycle(0)
        torch.manual_seed(recipe.seed)
        network = REMOVERS[recipe.remover]()
        initialise_remover(network, torch.Generator().manual_seed(recipe.seed))
        if initial is not None:
            rows = next(learn.batches(PROBE_PICTURES, self.shares, np.random.default_rng(0)))
            generator = torch.Generator(device).manual_seed(recipe.seed)
            load_shipped(network.to(device), initial, self._marked(rows, generator).image)
        self.prepare(network)
        self.held = self._held_out()

    def begin_cycle(self, cycle: int) -> None:
        """Take the crop size of a cycle."""
        self.side = self.recipe.sides[cycle]
        self.steps = len(self.learn) // self.recipe.batch

    def _marked(self, rows: NDArray[np.int64], generator: torch.Generator) -> Marked:
        pieces, colours = [], []
        for i, task in enumerate(self.pictures):
            chosen = torch.from_numpy(rows[rows[:, 0] == i, 1]).to(self.device)
            pieces.append(task[chosen].float().expand(-1, 3, -1, -1) / 255.0)
            colours.append(torch.full((len(chosen),), task.shape[1] == 3, device=self.device))
        clean, colour = torch.cat(pieces), torch.cat(colours)
        clean = turned(clean, generator)
        found = mark(clean, self.bank, self.recipe.marking, generator, colour)
        spared = torch.rand(len(clean), device=self.device, generator=generator)
        return cropped(without(found, spared < self.recipe.unmarked), self.side, generator)

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of every batch of one epoch."""
        for rows in self.learn.batches(self.recipe.batch, self.shares, rng):
            marked = self._marked(rows, generator)
            fed = marked.image.contiguous(memory_format=torch.channels_last)
            with self.autocast():
                found = self.network(fed)
                seen = self.judge(found.image, marked.clean) if self.judge else 0.0
            yield removal_loss(in_float32(found), marked) + self.recipe.likeness * seen

    def _held_out(self) -> list[Marked]:
        """A few whole pictures of every task that nothing is learned from, marked for good."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        bank = torch.from_numpy(logo_bank(CHOOSING_LOGOS, self.recipe.seed + 1))
        each = -(-CHOOSING_PICTURES // len(self.choose.tasks))
        held = []
        for task in self.choose.tasks:
            some = np.random.default_rng(self.recipe.seed).permutation(len(task.targets))[:each]
            clean = torch.from_numpy(task.images[some]).float().expand(-1, 3, -1, -1) / 255.0
            colour = torch.full((len(some),), task.images.shape[1] == 3)
            held.append(mark(clean, bank, self.recipe.marking, generator, colour))
        return held

    @torch.no_grad()
    def validate(self) -> tuple[float, float, str]:
        """Mean PSNR in dB, 1 - SSIM, and these with the overlap of the masks in words."""
        self.network.eval()
        figures = []
        for marked in self.held:
            for part in range(0, len(marked.image), 8):
                rows = slice(part, part + 8)
                found = self.network(marked.image[rows].to(self.device))
                image, mask = found.image.float().cpu(), found.mask.float().cpu()
                clean = marked.clean[rows]
                values = (psnr(image, clean), ssim(image, clean), overlap(mask, marked.mask[rows]))
                figures.append(torch.stack([v.double() for v in values], dim=1))
        noise, alike, same = torch.cat(figures).mean(dim=0).tolist()
        return noise, 1.0 - alike, f"PSNR {noise:.2f} dB  SSIM {alike:.4f}  mask IoU {same:.3f}"

    def facts(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and progress."""
        return {"kind": "remover"}


def turned(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror and transpose pictures (N, 3, side, side) at random."""
    for change in range(3):
        chosen = torch.rand(len(clean), device=clean.device, generator=generator) < 0.5
        changed = clean.transpose(2, 3) if change == 2 else clean.flip(2 + change)
        clean = torch.where(chosen.view(-1, 1, 1, 1), changed, clean)
    return clean


def without(marked: Marked, spared: Tensor) -> Marked:
    """Take the marks off again where ``spared`` ((N,) bool) holds."""
    here = spared.view(-1, 1, 1, 1)
    return Marked(
        torch.where(here, torch.round(marked.clean * 255.0) / 255.0, marked.image),
        marked.clean,
        *(x.masked_fill(here, 0.0) for x in (marked.mask, marked.alpha, marked.mark)),
    )


def cropped(marked: Marked, side: int, generator: torch.Generator) -> Marked:
    """A random square of ``side`` pixels out of every picture of a batch.

    Each holds some pixel of its mark, if there is one: bare ground teaches little.
    """
    count, _, height, width = marked.mask.shape
    if side >= min(height, width):
        return marked
    # A mark's pixels are equally likely; without a mark, all pixels are.
    likely = marked.mask[:, 0].flatten(1)
    likely = torch.where(likely.any(dim=1, keepdim=True), likely, torch.ones_like(likely))
    held = torch.multinomial(likely, 1, generator=generator)[:, 0]
    inside = torch.rand(2, count, generator=generator, device=generator.device)
    tops = (held // width - (inside[0] * side).long()).clamp(0, height - side)
    lefts = (held % width - (inside[1] * side).long()).clamp(0, width - side)
    corners = torch.stack([tops, lefts], dim=1).tolist()

    def squares(part: Tensor) -> Tensor:
        pairs = zip(part, corners, strict=True)
        return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in pairs])

    parts = (marked.image, marked.clean, marked.mask, marked.alpha, marked.mark)
    return Marked(*(squares(part) for part in parts))


def load_pictures(root: Path, recipe: RemoverRecipe) -> tuple[Part, Part]:
    """The training split of every task, to learn from and to choose the epoch by."""
    rng = np.random.default_rng(recipe.seed)
    divided = [
        hold_out(load_split(root, task, "train", recipe.picture_side), recipe.held_out, rng)
        for task in recipe.tasks
    ]
    return Part(tuple(d[0] for d in divided)), Part(tuple(d[1] for d in divided))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train_remover", description=__doc__)
    parser.add_argument("--remover", required=True, choices=sorted(REMOVERS))
    add_arguments(parser)
    parser.add_argument(
        "--further", type=Path, help="model.onnx of the same network, to go on from"
    )
    parser.add_argument("--favoured", default="", help="tasks seen twice as often, comma-separated")
    parser.add_argument("--likeness", type=float, default=0.0, help="weight of the perceptual loss")
    parser.add_argument(
        "--judge",
        type=Path,
        default=Path("onnx_models/vgg/model.onnx"),
        help="vgg classifier that it asks; default: %(default)s",
    )
    parser.set_defaults(side="128")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(argv)
    recipe = RemoverRecipe(
        remover=given.remover,
        tasks=tuple(given.tasks.split(",")),
        weight_decay=1e-4,
        likeness=given.likeness,
        favoured=tuple(filter(None, given.favoured.split(","))),
        init=f"the {given.remover} of before" if given.further else "scratch",
        **schedule_arguments(given),
    )
    limits = limits_given(given)
    learn, choose = load_pictures(data_root(given.data), recipe)
    device = torch.device(given.device)
    initial = read_weights(given.further) if given.further else None
    judge = Judge(given.judge, "vgg", device) if given.likeness else None
    trainer = RemoverTrainer(recipe, learn, choose, device, initial, judge)
    run(trainer, given.out, given.resume, limits)


if __name__ == "__main__":
    main()
