"""The paper's method followed to the letter: δ_D (MIAD-MARK Eq. 1 and 3), then HE-SIT (Alg. 3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Bank, Surrogate
from miad_cli.watermark.blend import OPAQUE, Mark, Tone, ink, tone_for
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.logo import Bytes
from miad_cli.watermark.marking import Marking, Settings, mark_picture
from miad_cli.watermark.perturbation import Attack, Weights, perturb
from miad_cli.watermark.placement import Candidate, Placement
from miad_cli.watermark.scenes import Scene, scene_of

PGD = Attack(
    epsilon=8,
    shaped=False,
    step_size=2,
    steps=50,
    momentum=0,
    remover_every=1,
    transforms=False,
    coarse=False,
    weights=Weights(classifiers=0, features=0, disrupt=1, inerase=0),
)
"""The paper's δ_D: Eq. 1 on Eq. 3 alone."""

SCALE = 2
"""The paper's logo scale divisor sl."""


def paper_faithful(
    image: MedicalImage,
    bank: Bank,
    logo: Bytes,
    settings: Settings,
    generator: np.random.Generator,
    label: int,
) -> Marking:
    """δ_D, where there is a removal network, and then boxes by Grad-CAM and HE-SIT over it."""
    if bank.removers:
        delta = disrupting(image, bank.removers[0], logo, generator)
        image = replace(image, stored=add(image.stored, delta, _tone(image)))
    plain = replace(settings, method="he-sit", perturbing=None)
    return mark_picture(image, bank, logo, plain, generator, label)


def paper_bank(bank: Bank) -> Bank:
    """What of a bank the paper's method asks: no segmentation, one removal network."""
    return replace(bank, segmentation=None, removers=bank.removers[:1])


def disrupting(
    image: MedicalImage,
    network: Surrogate,
    logo: Bytes,
    generator: np.random.Generator,
    attack: Attack = PGD,
) -> Delta:
    """δ_D against one removal network, each step under another logo at a random place."""
    clear = scene_of(image, image.key_frame, None, (), _tone(image))
    rows, columns = clear.canvas.shape[:2]
    placement = Placement(logo, rows, columns, SCALE, ())
    corners = placement.feasible_corners()
    scenes = []
    for _ in range(attack.steps):
        x, y = corners[generator.integers(len(corners))]
        candidate = Candidate(int(x), int(y), int(generator.integers(1, 256)))
        scenes.append(_under(clear, placement.mark(candidate)))
    # A task keeps δ from beginning with noise; no classifier is asked about it.
    return perturb(scenes, (), (network,), "none", 0, attack, generator).delta


def _under(clear: Scene, mark: Mark) -> Scene:
    """A scene with a logo that was rendered at its size."""
    colours, opacity = np.zeros_like(clear.canvas), np.zeros_like(clear.opacity)
    opacity[mark.region] = mark.opacity[..., 0] / OPAQUE
    colours[mark.region] = ink(mark.logo, Tone(0, 255), clear.canvas.shape[2]) / 255
    return replace(clear, ink=colours, opacity=opacity)


def _tone(image: MedicalImage) -> Tone:
    return tone_for(
        (image.window.low, image.window.high), image.bounds, image.inverted, image.padding
    )
