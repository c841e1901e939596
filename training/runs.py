"""What all training runs share: the learning rate's course, checkpoints, the loop over epochs."""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.architectures import fold_norms
from training.muon import make_optimiser

WARM_UP = 0.1
LARGEST_GRADIENT = 5.0
# Smaller tensors (biases, shapes) stay as they are: little to save, and biases need the range.
SMALLEST_HALF = 1024


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The course of a run.

    cycles: epochs of each cycle of the learning rate; where ``timed``, its share of the time
    instead. rates: peak rate of each cycle. sides: of the network's input in each cycle,
    pixels. init: how the weights began, in words.
    """

    cycles: tuple[float, ...] = (15.0,)
    rates: tuple[float, ...] = (1e-3,)
    sides: tuple[int, ...] = (160,)
    timed: bool = False
    batch: int = 32
    seed: int = 2023
    weight_decay: float = 0.02
    init: str = "scratch"

    def __post_init__(self) -> None:
        if not len(self.cycles) == len(self.rates) == len(self.sides):
            raise ValueError("every cycle needs its epochs, its rate and its side")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    epoch: rounds run, each ended by validation. cycle, fraction: the cycle and how much of it
    is done, 0..1. cycle_epochs: epochs' worth of steps run in each cycle. best_score: on the
    held-out part, of the best epoch at the present side.
    """

    epoch: int = 0
    cycle: int = 0
    fraction: float = 0.0
    cycle_epochs: tuple[float, ...] = ()
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -1.0
    best_loss: float = float("inf")
    best_side: int = 0


@dataclass(frozen=True)
class Limits:
    """When a run ends or pauses; nothing: not by the clock.

    A timed schedule ends at ``until`` (monotonic seconds), or after ``budget`` seconds of
    training in all, over however many commands. stop (monotonic seconds): no epoch is begun
    that would end later; another command goes on from there.
    """

    until: float | None = None
    budget: float | None = None
    stop: float | None = None

    def end(self, progress: Progress) -> float | None:
        """Monotonic time at which a timed schedule ends."""
        if self.budget is None:
            return self.until
        return time.monotonic() + max(self.budget - progress.seconds, 1.0)


def rate_at(peak: float, fraction: float) -> float:
    """Learning rate when ``fraction`` of a cycle is done: linear warm-up, cosine to nothing."""
    if fraction < WARM_UP:
        return peak * (0.04 + 0.96 * fraction / WARM_UP)
    fallen = (min(fraction, 1.0) - WARM_UP) / (1.0 - WARM_UP)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fallen)))


class Pace:
    """How much of a cycle is done: counted in steps, or by a clock that ends at ``until``.

    By the clock, what is left of the time is shared among the cycles (and parts of cycles) that
    are left, in proportion to ``cycles``.
    """

    def __init__(
        self, schedule: Schedule, progress: Progress, steps: int, until: float | None
    ) -> None:
        self.start = progress.fraction
        self.done = 0
        own = schedule.cycles[progress.cycle]
        self.steps = max(1, round(own * steps))
        self.began = time.monotonic()
        self.span: float | None = None
        if schedule.timed:
            if until is None:
                raise ValueError("a timed run needs to know when it ends")
            rest = own * (1.0 - self.start)
            share = rest / (rest + sum(schedule.cycles[progress.cycle + 1 :]))
            self.span = max(1.0, share * (until - time.monotonic()))

    def step(self) -> float:
        """Count one step; the fraction done after it (1 or more: the cycle is over)."""
        self.done += 1
        if self.span is None:
            # The sum of many fractions must not stop short of 1.
            return self.start + self.done / self.steps + 1e-9
        return self.start + (1.0 - self.start) * (time.monotonic() - self.began) / self.span


class Runner(ABC):
    """A network in training: what ``run`` needs to advance it, and what it does itself."""

    schedule: Schedule
    network: nn.Module
    device: torch.device
    side: int
    steps: int

    def prepare(self, network: nn.Module) -> None:
        """Move a network to the device and make its optimiser."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.network, self.schedule.weight_decay)

    @abstractmethod
    def begin_cycle(self, cycle: int) -> None:
        """Set ``side`` and ``steps`` (an epoch's) and load what the cycle needs."""

    @abstractmethod
    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of every batch of one epoch.

        rng is on the CPU, generator on the device; nothing else may be random but dropout.
        """

    @abstractmethod
    def validate(self) -> tuple[float, float, str]:
        """Score on the held-out part (higher is better), loss there, and both in words."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and progress."""

    def epoch(self, progress: Progress, pace: Pace) -> tuple[Progress, float]:
        """Run the next epoch, or what is left of the cycle; the mean training loss."""
        number, fraction, done = progress.epoch + 1, progress.fraction, 0
        # Seeded by the epoch, so that a resumed run sees what an unbroken one would.
        rng = np.random.default_rng([self.schedule.seed, number])
        seed = self.schedule.seed * 1000 + number
        torch.manual_seed(seed)
        self.network.train()
        total = torch.zeros((), device=self.device)
        for loss in self.losses(rng, torch.Generator(self.device).manual_seed(seed)):
            rate = rate_at(self.schedule.rates[progress.cycle], fraction)
            self._descend(loss, rate)
            # Read once an epoch: every reading makes the CPU wait for a GPU.
            total += loss.detach()
            done += 1
            fraction = pace.step()
            if fraction >= 1.0 or done == self.steps:
                break
        epochs = [*progress.cycle_epochs, *[0.0] * (progress.cycle + 1)][: progress.cycle + 1]
        epochs[-1] += done / self.steps
        moved = replace(
            progress, epoch=number, fraction=min(fraction, 1.0), cycle_epochs=tuple(epochs)
        )
        return moved, float(total) / max(done, 1)

    def _descend(self, loss: Tensor, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()

    def autocast(self) -> torch.autocast:
        """bfloat16 where the hardware computes in it; emulated, it would be slower than float32."""
        able = knows_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=able)


def run(runner: Runner, out: Path, resume: bool, limits: Limits | None = None) -> Progress:
    """Train to the end of the schedule, writing ``last.pt`` and ``best.pt`` into ``out``.

    ``last.pt`` is what ``resume`` goes on from; ``best.pt`` holds the finished weights of the
    best epoch so far, as small as they will be shipped.
    """
    limits = limits or Limits()
    out.mkdir(parents=True, exist_ok=True)
    progress = _resume(runner, out / "last.pt") if resume else Progress()
    begun, longest = 0, 0.0
    while progress.cycle < len(runner.schedule.cycles):
        started = time.monotonic()
        if limits.stop is not None and started + longest > limits.stop:
            break
        if progress.cycle != begun:
            begun = progress.cycle
            runner.begin_cycle(begun)
        pace = Pace(runner.schedule, progress, runner.steps, limits.end(progress))
        progress = _advance(runner, pace, progress, out)
        longest = max(longest, time.monotonic() - started)
    return progress


def _advance(runner: Runner, pace: Pace, progress: Progress, out: Path) -> Progress:
    started = time.monotonic()
    progress, training_loss = runner.epoch(progress, pace)
    score, loss, words = runner.validate()
    progress = replace(progress, seconds=progress.seconds + time.monotonic() - started)
    # Another size is another network: its first epoch is the best so far.
    same = progress.best_side == runner.side
    better = not same or (score, -loss) > (progress.best_score, -progress.best_loss)
    if better:
        progress = replace(
            progress,
            best_epoch=progress.epoch,
            best_score=score,
            best_loss=loss,
            best_side=runner.side,
        )
    print(
        f"epoch {progress.epoch:2d}  {runner.side} px  cycle {progress.cycle + 1} "
        f"{progress.fraction:4.0%}  loss {training_loss:.3f}  held out: {words}  "
        f"{progress.seconds:.0f} s{'  best' if better else ''}",
        flush=True,
    )
    if progress.fraction >= 1.0:
        progress = replace(progress, cycle=progress.cycle + 1, fraction=0.0)
    if better:
        save(out / "best.pt", _described(runner, progress) | finished(runner.network))
    state = {"network": runner.network.state_dict(), "optimiser": runner.optimiser.state_dict()}
    save(out / "last.pt", _described(runner, progress) | state)
    return progress


def finished(network: nn.Module) -> dict[str, Any]:
    """The weights as they are shipped: norms folded, large tensors in float16, on the CPU."""
    folded = copy.deepcopy(network).cpu().float().eval()
    fold_norms(folded)
    halve(folded)
    weights = {
        name: value.half() if value.numel() >= SMALLEST_HALF else value
        for name, value in folded.state_dict().items()
    }
    return {"network": weights, "folded": True}


def halve(network: nn.Module) -> None:
    """Round large weights to float16, in place.

    Raises:
        ValueError: a weight does not fit.
    """
    with torch.no_grad():
        for weights in network.parameters():
            if weights.numel() >= SMALLEST_HALF:
                weights.copy_(weights.half().float())
                if not torch.isfinite(weights).all():
                    raise ValueError("a weight does not fit into float16")


def restore(network: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Load the weights of ``last.pt`` or ``best.pt``, in place: folded, rounded, in eval mode."""
    network.eval()
    if checkpoint.get("folded"):
        fold_norms(network)
        network.load_state_dict(checkpoint["network"])
    else:
        network.load_state_dict(checkpoint["network"])
        fold_norms(network)
    halve(network)


def _described(runner: Runner, progress: Progress) -> dict[str, Any]:
    return runner.facts() | {
        "recipe": asdict(runner.schedule),
        "progress": asdict(progress),
        "hardware": describe_hardware(runner.device),
    }


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves the one before."""
    temporary = path.with_suffix(".tmp")
    torch.save(checkpoint, temporary)
    temporary.replace(path)


def _resume(runner: Runner, path: Path) -> Progress:
    if not path.exists():
        return Progress()
    checkpoint = torch.load(path, map_location=runner.device, weights_only=True)
    if checkpoint["recipe"] != asdict(runner.schedule):
        raise ValueError(f"{path} was made by another recipe: {checkpoint['recipe']}")
    runner.network.load_state_dict(checkpoint["network"])
    runner.optimiser.load_state_dict(checkpoint["optimiser"])
    return Progress(**checkpoint["progress"])


def knows_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself."""
    if device.type == "cpu":
        # Older releases of torch cannot tell; theirs is the answer that is right on most CPUs.
        able = getattr(torch.cpu, "get_capabilities", dict)()
        return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False)


def describe_hardware(device: torch.device) -> str:
    """The hardware in a few words, for the manifest."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    precision = ", bfloat16" if knows_bfloat16(device) else ""
    return f"{os.cpu_count()} CPU cores{precision}"


def seconds_until(clock: str) -> float:
    """Seconds from now to the next time the local clock shows ``HH:MM``."""
    now = datetime.now()
    hour, minute = (int(part) for part in clock.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then + timedelta(days=then <= now) - now).total_seconds()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The part of the command line that all runs share."""
    parser.add_argument("--tasks", required=True, help="comma-separated data set names")
    parser.add_argument("--data", type=Path, help="data folder or pack (or MIAD_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--epochs", default="15", help="of every cycle: 20 or 20,12")
    parser.add_argument("--rate", default="0.001", help="peak learning rate of every cycle")
    parser.add_argument("--side", default="160", help="of the input in every cycle: 160,224")
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument(
        "--until", help="HH:MM: end then; --epochs become shares of the time until then"
    )
    clock.add_argument(
        "--budget", type=float, help="minutes of training in all; --epochs become shares of them"
    )
    parser.add_argument("--minutes", type=float, help="pause after these; --resume goes on")
    parser.add_argument("--batch", type=int, default=Schedule.batch)
    parser.add_argument("--seed", type=int, default=Schedule.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from --out/last.pt")


def schedule_arguments(given: argparse.Namespace) -> dict[str, Any]:
    """What the shared part of the command line says of the schedule."""
    cycles = tuple(float(part) for part in given.epochs.split(","))
    sides = tuple(int(part) for part in given.side.split(","))
    return {
        "cycles": cycles,
        "rates": tuple(float(part) for part in given.rate.split(",")),
        "sides": sides * len(cycles) if len(sides) == 1 else sides,
        "timed": given.until is not None or given.budget is not None,
        "batch": given.batch,
        "seed": given.seed,
    }


def limits_given(given: argparse.Namespace) -> Limits:
    """When the command line says the run ends or pauses."""
    now = time.monotonic()
    return Limits(
        now + seconds_until(given.until) if given.until else None,
        60 * given.budget if given.budget else None,
        now + 60 * given.minutes if given.minutes else None,
    )
