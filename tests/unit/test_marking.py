"""Deciding on a mark and putting it on: what keeps off lesions, what is written and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo, write_convolutional_model, write_flat_model

from miad_cli.errors import NoRoomForLogo
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device
from miad_cli.watermark.blend import blend
from miad_cli.watermark.delta import add
from miad_cli.watermark.ensemble import Attention, Ensemble
from miad_cli.watermark.guided import Plan
from miad_cli.watermark.jury import Shot
from miad_cli.watermark.lesions import Box, Lesions
from miad_cli.watermark.marking import (
    Marking,
    Perturbing,
    Settings,
    apply_mark,
    decide,
    fitted,
    mark_picture,
    shots_of,
)
from miad_cli.watermark.perturbation import Attack
from miad_cli.watermark.search import Budget

QUICK = Settings(
    budget=Budget(parents=4, generations=1),
    plan=Plan(seeds=6, rounds=1, children=4, sits=2),
    perturbing=Perturbing(Attack(shaped=False), before=2, around=2, shared=1),
    threshold=250,
)
LOGO_ALONE = replace(QUICK, method="he-sit", perturbing=None)
LESION = Box(20, 12, 9, 8)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    write_flat_model(tmp_path / "flat", layout="NCHW", channels=3, kind="logits")
    write_convolutional_model(tmp_path / "looking")
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    return load_bank("toy", (), None, Device())


def image_of(seed: int = 0, frames: int = 1) -> MedicalImage:
    stored = np.random.default_rng(seed).integers(0, 4096, (frames, 40, 50, 1), np.int32)
    return MedicalImage(stored, (0, 4095), Window(200, 3000))


def marked(
    bank: Bank, image: MedicalImage, settings: Settings, lesions: Lesions | None = None
) -> Marking:
    generator = np.random.default_rng(0)
    return mark_picture(image, bank, opaque_logo(30, 30), settings, generator, 0, lesions)


@pytest.mark.parametrize("settings", [QUICK, LOGO_ALONE], ids=["perturbed", "logo alone"])
def test_marking_holds_the_pixels_and_the_opinion_of_them(bank: Bank, settings: Settings) -> None:
    image = image_of(frames=2)
    marking = marked(bank, image, settings)
    assert (marking.delta is None) == (settings.perturbing is None)
    beneath = image.stored
    if marking.delta is not None:
        beneath = add(beneath, marking.delta, marking.tone)
        assert 0 < marking.largest_change <= 8
        assert marking.decision.gradients == 8  # four steps, two models
    np.testing.assert_array_equal(marking.stored, blend(beneath, marking.mark, marking.tone))
    ensemble = Ensemble(bank, image)
    whole = ensemble.opinion_of(marking.stored[1])
    np.testing.assert_allclose(marking.marked.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_array_equal(marking.clean.probabilities, ensemble.clean.probabilities)
    assert marking.fooled == (whole.label != 0)
    assert marking.models_fooled == sum(int(one.argmax()) != 0 for one in whole.probabilities)
    height, width = marking.mark.logo.shape[:2]
    covered = np.zeros((40, 50), bool)
    for box in marking.decision.lesions.boxes:
        covered[box.y : box.y + box.height, box.x : box.x + box.width] = True
    top, left = marking.mark.y, marking.mark.x
    assert not covered[top : top + height, left : left + width].any()


@pytest.mark.parametrize("method", ["guided", "he-sit", "random"])
def test_neither_logo_nor_perturbation_touches_a_lesion(bank: Bank, method: str) -> None:
    image = image_of()
    settings = replace(QUICK, method=method)
    marking = marked(bank, image, settings, Lesions((LESION,), "mask"))
    changed = marking.stored[0] != image.stored[0]
    inside = (
        slice(LESION.y, LESION.y + LESION.height),
        slice(LESION.x, LESION.x + LESION.width),
    )
    assert not changed[inside].any()
    assert changed.mean() > 0.5


def test_the_same_seed_gives_the_same_pixels(bank: Bank) -> None:
    one, other = (marked(bank, image_of(), QUICK).stored for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_perturbation_moves_models_further_than_the_logo_alone(bank: Bank) -> None:
    strong = replace(QUICK, perturbing=Perturbing(Attack(shaped=False), 4, 8, 1))
    margins = {
        settings.perturbing is not None: max(marked(bank, image_of(), settings).marked.margins(0))
        for settings in (strong, replace(QUICK, perturbing=None))
    }
    assert margins[True] < margins[False]


def test_slices_share_a_mark_and_get_a_perturbation_each(bank: Bank) -> None:
    images = [image_of(seed) for seed in range(3)]
    generator = np.random.default_rng(0)
    shots = [Shot(image, 0) for image in images]
    decision = decide(shots, bank, noisy_logo(20, 18), QUICK, generator, 0)
    assert decision.shared
    own = Lesions((LESION,), "mask")
    each = [fitted(decision, image, bank, QUICK, np.random.default_rng(1), own) for image in images]
    assert all(one.mark is decision.mark for one in each)
    grids = {one.delta.grid.tobytes() for one in each if one.delta is not None}
    assert len(grids) == 3
    unmoved = replace(QUICK, perturbing=Perturbing(Attack(shaped=False), shared=0))
    for settings in (QUICK, unmoved):  # a slice's own lesion is kept free, with or without a step
        decided = fitted(decision, images[0], bank, settings, np.random.default_rng(1), own)
        stored = apply_mark(decided, images[0], bank).stored[0]
        rows = slice(LESION.y, LESION.y + LESION.height)
        free = np.ones((40, 50), bool)
        free[decision.mark.region] = False
        lesion = np.zeros((40, 50), bool)
        lesion[rows, LESION.x : LESION.x + LESION.width] = True
        np.testing.assert_array_equal(stored[free & lesion], images[0].stored[0][free & lesion])


def test_without_gradients_there_is_the_logo_alone(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for surrogate in bank.surrogates:
        monkeypatch.setitem(surrogate.__dict__, "gradients", False)
    marking = marked(bank, image_of(), QUICK, Lesions((), "none"))
    assert marking.delta is None
    assert marking.largest_change == marking.decision.gradients == 0


def test_attention_that_leaves_no_room_counts_at_its_peaks_only(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    everywhere, corner = Box(0, 0, 50, 40), Box(0, 0, 5, 5)

    def attention(self: Ensemble, threshold: float, top_share: float) -> Attention:
        asked.append(threshold)
        return Attention(
            np.zeros((40, 50), np.float32), (corner if threshold > 230 else everywhere,)
        )

    monkeypatch.setattr(Ensemble, "attention", attention)
    marking = marked(bank, image_of(), replace(LOGO_ALONE, threshold=200))
    assert asked == [200, 220, 240]
    assert marking.decision.lesions.boxes == (corner,)
    with pytest.raises(NoRoomForLogo):
        marked(bank, image_of(), LOGO_ALONE, Lesions((everywhere,), "mask"))


def test_a_cine_is_decided_on_by_a_few_frames() -> None:
    shots = shots_of(image_of(frames=40))
    assert len(shots) == 9
    assert [shot.frame for shot in shots] == sorted({shot.frame for shot in shots})
