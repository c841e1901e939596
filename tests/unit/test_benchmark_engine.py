"""The benchmark of the engine counts what the models really do, and compares like with like."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import opaque_logo
from laboratory import FAMILIES, write_models

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.engine_tables import tables
from benchmarks.meter import watching
from benchmarks.paper_method import disrupting, paper_faithful
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device
from miad_cli.watermark.guided import Plan
from miad_cli.watermark.lesions import Lesions
from miad_cli.watermark.marking import Marking, Perturbing, Settings, mark_picture
from miad_cli.watermark.perturbation import Attack
from miad_cli.watermark.search import Budget

ASKED_BESIDES = 2
"""Of a picture, beside the candidates: clean, and marked."""

SETTINGS = Settings(
    budget=Budget(parents=2, generations=1, density=0.001),
    plan=Plan(seeds=6, rounds=1, children=3, sits=2),
    perturbing=Perturbing(Attack(remover_every=2), before=2, around=4),
)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bank]:
    """Two classifiers and a removal network that halves pictures, everything loaded."""
    write_models(tmp_path, {"darkener": 0.5})
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    found = load_bank("toy", (), None, Device())
    assert all(one.gradients for one in (*found.surrogates, found.attention, *found.removers))
    yield found


def picture() -> MedicalImage:
    stored = np.random.default_rng(5).integers(60, 200, (1, 24, 24, 1)).astype(np.uint8)
    return MedicalImage(stored, (0, 255), Window(0, 255))


def marked(bank: Bank) -> Marking:
    logo, anywhere = opaque_logo(10, 18, (255, 255, 255)), Lesions((), "none")
    generator = np.random.default_rng(1)
    return mark_picture(picture(), bank, logo, SETTINGS, generator, 0, anywhere)


def test_passes_are_those_that_the_decision_tells_of(bank: Bank) -> None:
    started = time.perf_counter()
    with watching(bank) as meter:
        decision = marked(bank).decision
    elapsed = time.perf_counter() - started
    count = len(FAMILIES)
    assert meter.passes["classifier"] == count * (decision.queries + ASKED_BESIDES)
    assert meter.passes["classifier gradient"] == count * (6 + SETTINGS.plan.bases)
    assert meter.passes["removal gradient"] == 1 + 2
    assert decision.gradients == count * 6 + 3
    assert 0 < meter.wall < elapsed
    assert meter.cpu > 0


def test_nothing_is_watched_afterwards(bank: Bank) -> None:
    back = torch.autograd.grad
    with watching(bank) as meter:
        assert torch.autograd.grad is not back
    marked(bank)
    assert torch.autograd.grad is back
    assert not meter.passes
    assert meter.wall == 0


def test_paper_takes_fifty_steps_and_then_one_candidate_at_a_time(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    for one in bank.surrogates:
        run = one.session.run
        monkeypatch.setattr(
            one.session, "run", lambda views, run=run: (batches.append(len(views)), run(views))[1]
        )
    image, logo = picture(), opaque_logo(10, 18, (255, 255, 255))
    with watching(bank) as meter:
        made = paper_faithful(image, bank, logo, SETTINGS, np.random.default_rng(1), 0)
    assert meter.passes["removal gradient"] == 50
    assert meter.passes["classifier gradient"] == 1  # Grad-CAM
    assert meter.passes["classifier"] == len(FAMILIES) * (made.decision.queries + ASKED_BESIDES)
    assert set(batches) == {1}
    beside = np.ones(image.stored.shape[1:3], bool)
    beside[made.mark.region] = False
    change = made.stored[0, ..., 0][beside].astype(int) - image.stored[0, ..., 0][beside]
    assert 0 < np.abs(change).max() <= 8


def test_disrupting_goes_to_the_bound_where_a_network_darkens(bank: Bank) -> None:
    """Under a black logo half of what it sees stays below the original: darker is further."""
    logo = opaque_logo(10, 18, (0, 0, 0))
    delta = disrupting(picture(), bank.removers[0], logo, np.random.default_rng(1))
    assert (delta.grid == -8).all()


# --- Tables -----------------------------------------------------------------------------------


def figures(method: str, number: int, **others: Any) -> dict[str, Any]:
    return {
        "task": "toy", "method": method, "picture": f"toy {number}", "group": f"toy {number}",
        "wall": 4.0, "cpu": 4.0, "models_wall": 3.0, "models_cpu": 3.0, "queries": 30,
        "gradients": 1, "removals": 50, "segmentations": 0, "removers": 1, "accuracy": 0.5,
        "fooled": True, "ssim": 0.9, "peak": 100.0, **others,
    }  # fmt: skip


def row(text: str, start: str) -> str:
    (found,) = (line for line in text.splitlines() if line.startswith(start))
    return found


def test_ratios_are_of_sums_over_the_same_pictures() -> None:
    results = [
        *(figures("paper", one, cpu=cpu) for one, cpu in enumerate((10.0, 2.0, 500.0))),
        *(figures("fast", one, cpu=cpu, models_wall=1.0) for one, cpu in enumerate((2.0, 1.0))),
        {"task": "toy", "method": "fast", "picture": "toy 2", "refused": "no room"},
    ]
    text = tables(results)
    assert row(text, "| toy | fast | 0.").startswith("| toy | fast | 0.25 (0.20 to 0.50) | 1.00")
    assert "| 75 % (" in row(text, "| toy | fast | 2 |")
    assert "Left out, because no logo fits or shows in one of the methods: 1." in text
    assert "No removal network" not in text


def test_missing_removal_network_is_told() -> None:
    results = [figures(one, 0, removals=0, removers=0) for one in ("paper", "fast")]
    assert "No removal network is installed: paper is HE-SIT alone" in tables(results)
