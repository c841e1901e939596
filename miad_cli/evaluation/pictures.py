"""Sample pictures for the report: original, protected, recovered, and what happened between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import InvisibleLogo, NoRoomForLogo
from miad_cli.evaluation import metrics
from miad_cli.evaluation.findings import Removed, Sample
from miad_cli.evaluation.protocols.bench import Bench, Protected, Subject
from miad_cli.evaluation.protocols.treatments import Treatment
from miad_cli.imaging.image import Stored
from miad_cli.watermark.blend import corrections, unblend
from miad_cli.watermark.delta import doubts, subtract
from miad_cli.watermark.ensemble import Ensemble

Bytes = NDArray[np.uint8]

MOST = 6
"""Samples in a report."""

GAIN = 12
"""How many times δ is amplified."""


def samples_of(bench: Bench, labels: Sequence[str], most: int = MOST) -> tuple[Sample, ...]:
    """The first pictures of the run, all models attacked together as `miad protect` does it.

    `labels` are the names of the task's classes. Those that cannot be protected are left out.
    """
    samples = []
    for subject in bench.subjects[:most]:
        try:
            samples.append(_sample(bench, subject, labels))
        except (NoRoomForLogo, InvisibleLogo):
            continue
    return tuple(samples)


def _sample(bench: Bench, subject: Subject, labels: Sequence[str]) -> Sample:
    treatment = bench.material.everyone()
    made = bench.protected(subject, treatment)
    original, mark = bench.original(subject), made.decision.mark
    seen = _seen_by_models(bench, subject, treatment, made)
    height, width = mark.logo.shape[:2]
    protected = _flat(_displayed(bench, subject, made.stored))
    delta = made.decision.delta
    removed = tuple(
        Removed(name, _flat(seen[f"removed {name}"]), _note(bench, subject, seen, name))
        for name in bench.material.removers
    )
    return Sample(
        caption=_caption(subject, labels),
        original=_flat(_displayed(bench, subject, original)),
        protected=protected,
        recovered=_flat(_displayed(bench, subject, _recovered(original, made))),
        heat=seen.get("heat"),
        boxes=tuple((one.x, one.y, one.width, one.height) for one in made.decision.lesions.boxes),
        logo=(mark.x, mark.y, width, height),
        delta=None if delta is None else _flat(_amplified(delta.grid)),
        delta_gain=GAIN,
        removed=removed,
        facts=_facts(bench, subject, treatment, seen, labels),
    )


def _caption(subject: Subject, labels: Sequence[str]) -> str:
    if subject.label is None:
        return f"Picture {subject.number}"
    return f"Picture {subject.number}, {labels[subject.label]}"


def _recovered(original: Stored, made: Protected) -> Stored:
    """The key frame with logo and δ taken off, as unlocking does it."""
    marked, beneath, decision = made.stored[None], made.beneath[None], made.decision
    stream = corrections(beneath, marked, decision.mark, made.tone)
    without: Stored = unblend(marked, decision.mark, made.tone, stream)
    if decision.delta is not None:
        bits = doubts(original[None], decision.delta, made.tone)
        without = subtract(without, decision.delta, made.tone, bits)
    frame: Stored = without[0]
    return frame


def _seen_by_models(
    bench: Bench, subject: Subject, treatment: Treatment, made: Protected
) -> dict[str, Any]:
    """What only models can say, kept so that a resumed run need not ask them again: `heat` where
    the boxes come from attention, `said NAME` before and after by model, `removed NAME`."""
    digest = treatment.digest(dict(bench.material.fingerprints))
    name = f"samples/{subject.digest[:20]}-{bench.material.seed}-{digest}"
    kept = bench.store.arrays(name)
    if kept is None:
        kept = _asked(bench, subject, treatment, made)
        bench.store.keep(name, kept)
    return kept


def _asked(bench: Bench, subject: Subject, treatment: Treatment, made: Protected) -> dict[str, Any]:
    material, settings = bench.material, bench.material.settings
    found: dict[str, Any] = {}
    if made.decision.lesions.source in ("grad-cam", "occlusion"):
        ensemble = Ensemble(material.bank_for(treatment), bench.image(subject))
        heat = ensemble.attention(settings.threshold, settings.top_share).heat
        found["heat"] = np.clip(np.rint(heat), 0, 255).astype(np.uint8)
    before = bench.said_of(subject, bench.original(subject))
    after = bench.said_of(subject, made.stored)
    for model in material.models:
        found[f"said {model}"] = np.array([before[model], after[model]])
    picture = _displayed(bench, subject, made.stored)
    for network in material.removers:
        found[f"removed {network}"] = bench.removed(network, picture)
    return found


def _note(bench: Bench, subject: Subject, seen: dict[str, Any], network: str) -> str:
    """How like the original a network's output is."""
    original = _displayed(bench, subject, bench.original(subject))
    output = seen[f"removed {network}"]
    psnr = metrics.psnr(original, output, data_range=255)
    try:
        return f"PSNR {psnr:.1f} dB, SSIM {metrics.ssim(original, output, data_range=255):.2f}"
    except metrics.Undefined:
        return f"PSNR {psnr:.1f} dB"


def _facts(
    bench: Bench,
    subject: Subject,
    treatment: Treatment,
    seen: dict[str, Any],
    labels: Sequence[str],
) -> tuple[tuple[str, str], ...]:
    facts = []
    for model in bench.material.models:
        before, after = (labels[int(one)] for one in seen[f"said {model}"].argmax(axis=1))
        facts.append((model, f"{before} → {after}"))
    quality = bench.quality(subject, treatment)
    shown = {
        "SSIM": quality["ssim"],
        "SSIM outside the logo": quality["outside"],
        "SSIM inside the lesion": quality["lesion"],
        "lesion under the logo": quality["under_logo"],
        "lesion under δ": quality["under_delta"],
    }
    facts += [(name, f"{value:.3f}") for name, value in shown.items() if value is not None]
    facts.append(("largest δ", f"{quality['delta']} of 255"))
    return tuple(facts)


def _displayed(bench: Bench, subject: Subject, stored: Stored) -> Bytes:
    """Stored values of a frame as they are shown: (rows, columns, 1 or 3) uint8."""
    shown: Bytes = np.rint(bench.shown(subject, stored) * 255).astype(np.uint8)
    return shown


def _amplified(grid: NDArray[np.int8]) -> Bytes:
    """δ around the middle grey."""
    shown: Bytes = np.clip(128 + GAIN * grid.astype(int), 0, 255).astype(np.uint8)
    return shown


def _flat(pixels: Bytes) -> Bytes:
    """Without the axis of a single channel."""
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
