"""Make every shipped classifier: ``python -m training.make_bank --help``.

Interrupted, it goes on where it stopped when run again with the same arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training import check, export, train
from training.data import data_root

TASKS = "brain_mri"


@dataclass(frozen=True)
class Plan:
    """How one model is made.

    epochs, rates: of every cycle of the learning rate, as ``training.train`` takes them.
    origin: what its first weights are, with their licence; empty where it starts from scratch.
    """

    family: str
    epochs: str
    rates: str
    origin: str = ""


PLANS = (
    Plan("resnet", "20,12", "0.002,0.001"),
    Plan(
        "mobilenet-v2",
        "8",
        "0.0007",
        "ImageNet weights of MobileNet V2 (batch norms folded), Apache-2.0",
    ),
    Plan("densenet", "14", "0.002"),
)


def train_arguments(plan: Plan, tasks: str, root: Path, runs: Path, init: Path | None) -> list[str]:
    """The command line of ``training.train`` for one plan."""
    given = ["--family", plan.family, "--tasks", tasks, "--data", str(root)]
    given += ["--out", str(runs / plan.family), "--resume"]
    given += ["--epochs", plan.epochs, "--rate", plan.rates]
    if plan.origin:
        if init is None:
            raise ValueError(f"{plan.family} starts from other weights: give --init")
        given += ["--init", str(init), "--init-origin", plan.origin]
    return given


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.make_bank", description=__doc__)
    parser.add_argument("--tasks", default=TASKS, help="comma-separated data set names")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--init", type=Path, help="MobileNet V2 ImageNet weights, norms folded")
    parser.add_argument("--out", type=Path, default=Path("onnx_models"))
    parser.add_argument("--families", help="only these, comma-separated")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train, export and check."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    chosen = set(given.families.split(",")) if given.families else {p.family for p in PLANS}
    plans = [plan for plan in PLANS if plan.family in chosen]
    for plan in plans:
        train.main(train_arguments(plan, given.tasks, root, given.runs, given.init))
        checkpoint = given.runs / plan.family / "best.pt"
        out = given.out / plan.family
        export.main(["--checkpoint", str(checkpoint), "--data", str(root), "--out", str(out)])
    check.main([*(str(given.out / plan.family) for plan in plans), "--data", str(root)])


if __name__ == "__main__":
    main()
