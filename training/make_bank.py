"""Make every model, several at once: ``python -m training.make_bank --help``.

Interrupted or paused (``--minutes``), it goes on where it stopped when run again with the same
arguments. Training needs torch, numpy and Pillow alone; export and check need the rest too, so
the stages may run on different machines: only ``RUNS/NAME/best.pt`` has to travel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from training.data import SOURCES, data_root

STAGES = ("train", "export", "check")
POLL_SECONDS = 2.0
COLLECT_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """How one model is made.

    script: the module that trains it. cpu, gpu: what that module is told there; ``budget`` is the
    minutes of training, ``epochs`` each cycle's share of them. origin: what its first weights
    are, with their licence; empty where it starts from scratch. network: the architecture, where
    the model is not called like it. tasks: comma-separated, where it is not for all of them.
    """

    name: str
    script: str
    cpu: Mapping[str, str]
    gpu: Mapping[str, str]
    origin: str = ""
    network: str = ""
    tasks: str = ""


KINDS = MappingProxyType(
    {"train": "--family", "train_remover": "--remover", "train_segmenter": "--segmenter"}
)


def _course(budget: int, epochs: str, rate: str, side: str, **others: str) -> Mapping[str, str]:
    given = {"budget": str(budget), "epochs": epochs, "rate": rate, "side": side}
    return MappingProxyType(given | others)


def _classifier(
    name: str, cpu_minutes: int, rates: Sequence[str] = ("0.0015", "0.001", "0.0006")
) -> Plan:
    """A classifier from scratch: small pictures first, for most of what it must learn; on a CPU
    the middle size and the largest twice, beginning again at the first rate."""
    first, middle, last = rates
    again = ",".join((first, middle, last, first, last))
    return Plan(
        name,
        "train",
        _course(
            cpu_minutes, "0.19,0.11,0.13,0.34,0.23", again, "96,160,224,160,224",
            batch="32", decay="0.05",
        ),
        _course(8, "0.3,0.3,0.4", ",".join(rates), "96,160,224", batch="64", decay="0.05"),
    )  # fmt: skip


def _remover(name: str, cpu_minutes: int) -> Plan:
    """A removal network: crops first, whole pictures last."""
    return Plan(
        name,
        "train_remover",
        _course(cpu_minutes, "0.44,0.24,0.32", "0.002,0.0008,0.0008", "128,224,224", batch="16"),
        _course(15, "0.4,0.6", "0.002,0.0008", "128,224", batch="32"),
    )


def _segmenter(name: str, task: str) -> Plan:
    """A network that finds the lesions of one task."""
    return Plan(
        name,
        "train_segmenter",
        _course(15, "0.3,0.4,0.3", "0.003,0.002,0.001", "96,128,224", batch="8"),
        _course(3, "0.5,0.5", "0.004,0.002", "128,224", batch="32"),
        network="unet",
        tasks=task,
    )


PLANS = (
    Plan(
        "mobilenet-v2",
        "train",
        _course(110, "0.6,0.4", "0.0007,0.0004", "160,224", batch="32", decay="0.02"),
        _course(8, "0.5,0.5", "0.001,0.0006", "160,224", batch="64", decay="0.02"),
        origin="ImageNet weights of MobileNet V2 (batch norms folded), Apache-2.0",
    ),
    _classifier("resnet", 35),
    _classifier("densenet", 46),
    _classifier("vgg", 38),
    _classifier("inception", 40),
    _classifier("vit", 42, ("0.001", "0.0008", "0.0005")),
    _remover("wdnet", 75),
    _remover("split-refine", 70),
    # Lesions are outlined in two data sets alone, in one of them by boxes.
    _segmenter("skin-lesion", "dermoscopy"),
    _segmenter("brain-tumour", "brain_mri"),
)


@dataclass
class Job:
    """One plan being carried out."""

    plan: Plan
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Begin training in a process of its own."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )

    def last_line(self) -> str:
        """Where it stands, in its own words."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{self.plan.name}: {lines[-1] if lines else 'nothing yet'}"


def train_arguments(plan: Plan, given: argparse.Namespace, root: Path) -> list[str]:
    """The command line of the training script for one plan."""
    words = [KINDS[plan.script], plan.network or plan.name]
    words += ["--tasks", plan.tasks or given.tasks, "--data", str(root)]
    words += ["--out", str(given.runs / plan.name), "--device", given.device, "--resume"]
    course = plan.gpu if given.device.startswith("cuda") else plan.cpu
    if given.budget:
        course = {**course, "budget": str(given.budget)}
    for key, value in course.items():
        words += [f"--{key}", value]
    if plan.origin:
        if given.init is None:
            raise ValueError(f"{plan.name} starts from other weights: give --init")
        words += ["--init", str(given.init), "--init-origin", plan.origin]
    return words


def train_all(plans: Sequence[Plan], given: argparse.Namespace, root: Path) -> list[str]:
    """Train, ``--parallel`` at once; returns the names of those that failed."""
    ends = time.monotonic() + 60 * given.minutes if given.minutes else None
    # Threads of several trainings must not wait for each other.
    threads = str(max(1, (os.cpu_count() or 1) // given.parallel))
    environment = {"OMP_NUM_THREADS": threads} | dict(os.environ)
    waiting = [
        Job(
            plan,
            [sys.executable, "-m", f"training.{plan.script}", *train_arguments(plan, given, root)],
            given.runs / plan.name / "log.txt",
            environment,
        )
        for plan in plans
    ]
    running: list[Job] = []
    failed, collected = [], time.monotonic()
    while waiting or running:
        while waiting and len(running) < given.parallel:
            if ends is not None and time.monotonic() > ends:
                waiting.clear()
                break
            job = waiting.pop(0)
            if ends is not None:
                job.command += ["--minutes", f"{(ends - time.monotonic()) / 60:.2f}"]
            job.start()
            running.append(job)
        time.sleep(POLL_SECONDS)
        for job in [job for job in running if job.process and job.process.poll() is not None]:
            running.remove(job)
            print(job.last_line(), flush=True)
            if job.process and job.process.returncode:
                failed.append(job.plan.name)
        if given.collect and time.monotonic() - collected > COLLECT_SECONDS:
            collected = time.monotonic()
            collect(plans, given.runs, given.collect)
            for job in running:
                print(job.last_line(), flush=True)
    if given.collect:
        collect(plans, given.runs, given.collect)
    return failed


def collect(plans: Sequence[Plan], runs: Path, out: Path) -> None:
    """Copy the best weights of every plan so far to ``out/NAME.pt``."""
    out.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        source = runs / plan.name / "best.pt"
        if source.exists():
            temporary = out / f"{plan.name}.tmp"
            shutil.copyfile(source, temporary)
            temporary.replace(out / f"{plan.name}.pt")


def export_all(plans: Sequence[Plan], given: argparse.Namespace, root: Path) -> None:
    """Export what has been trained: classifiers first, since they judge the removers."""
    from training import export

    for plan in sorted(plans, key=lambda plan: plan.script != "train"):
        best = given.runs / plan.name / "best.pt"
        if not best.exists():
            print(f"{plan.name}: not trained, left out")
            continue
        words = ["--checkpoint", str(best), "--data", str(root), "--out"]
        words.append(str(given.out / plan.name))
        words += ["--limit", str(given.limit)] if given.limit else []
        export.main(words)


def check_all(plans: Sequence[Plan], given: argparse.Namespace, root: Path) -> None:
    """Check every exported model."""
    from training import check

    folders = [given.out / plan.name for plan in plans]
    made = [str(folder) for folder in folders if (folder / "manifest.toml").exists()]
    check.main([*made, "--data", str(root)])


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.make_bank", description=__doc__)
    parser.add_argument("--tasks", default=",".join(SOURCES), help="comma-separated data set names")
    parser.add_argument("--data", type=Path, help="data folder or pack (or MIAD_DATA)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--init", type=Path, help="MobileNet V2 ImageNet weights, norms folded")
    parser.add_argument("--out", type=Path, default=Path("onnx_models"))
    parser.add_argument("--only", help="only these, comma-separated")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of train,export,check")
    parser.add_argument("--parallel", type=int, default=1, help="so many trainings at once")
    parser.add_argument("--budget", type=float, help="minutes of training for each model in all")
    parser.add_argument("--minutes", type=float, help="pause all training after these")
    parser.add_argument("--collect", type=Path, help="copy best.pt of each there, now and then")
    parser.add_argument("--limit", type=int, help="measure removers on so many pictures a task")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train, export and check."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    names = given.only.split(",") if given.only else [plan.name for plan in PLANS]
    unknown = sorted(set(names) - {plan.name for plan in PLANS})
    if unknown:
        raise SystemExit(f"there is no plan for {', '.join(unknown)}")
    plans = [plan for plan in PLANS if plan.name in names]
    stages = given.stages.split(",")
    if "train" in stages:
        failed = train_all(plans, given, root)
        if failed:
            raise SystemExit(f"training failed, see log.txt of: {', '.join(failed)}")
    if "export" in stages:
        export_all(plans, given, root)
    if "check" in stages:
        check_all(plans, given, root)


if __name__ == "__main__":
    main()
