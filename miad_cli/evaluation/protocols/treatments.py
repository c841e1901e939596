"""Ways to protect a picture, and the marks that were found so, kept in the work folder.

A mark is searched for once, however many protocols ask for it and however often a run is resumed:
its decision is a few kilobytes of integers, and blending it in again gives the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from miad_cli import __version__
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.delta import Delta
from miad_cli.watermark.lesions import Box, Lesions
from miad_cli.watermark.logo import Sit
from miad_cli.watermark.marking import Decision, Settings

LesionsFrom = Literal["profile", "attention", "annotation"]

OWN = "own"
"""The logo that the user gave."""


@dataclass(frozen=True)
class Treatment:
    """One way to protect.

    Attributes:
        models: names of the classifiers that are attacked together.
        attention: name of the model that says where the logo may not be.
        removers: names of the removal networks that δ is made against.
        logo: which logo.
        noise: random noise within δ's bound takes the place of δ.
        lesions: who says where the logo may not be: as the profile has it, or `attention` alone,
            or the `annotation` that came with the picture (`miad protect --mask`).
    """

    models: tuple[str, ...]
    settings: Settings
    attention: str
    removers: tuple[str, ...] = ()
    logo: str = OWN
    noise: bool = False
    lesions: LesionsFrom = "profile"

    def digest(self, fingerprints: dict[str, str]) -> str:
        """What decides the mark beside the picture and the seed; `fingerprints` are SHA-256 by
        the names of models and logos."""
        names = (*self.models, "", self.attention, "", *self.removers, "", f"logo {self.logo}")
        facts = [__version__, repr(self.settings), self.noise, self.lesions]
        facts += [fingerprints.get(name, name) for name in names]
        if self.lesions == "profile":
            facts.append(fingerprints.get("segmentation", ""))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    def passes(self) -> int:
        """About how many times one model looks at a picture; a gradient counts for three."""
        settings, models = self.settings, len(self.models)
        plan, paper = settings.plan, 120
        if settings.method == "guided":
            looks = plan.seeds + plan.rounds * plan.children + 16 + 3 * plan.bases
            count = looks * (min(plan.models, models) or models)
        else:
            count = (1 if settings.method == "random" else paper) * models
        if settings.perturbing is not None:
            made = settings.perturbing
            asked = made.attack.models_per_step or models
            count += 3 * (made.before + made.around) * (min(asked, models) + bool(self.removers))
        return count + 3 + models


@dataclass(frozen=True, eq=False)
class Found:
    """A decision, or why there is none, and how many seconds it took."""

    decision: Decision | None
    seconds: float
    refusal: str = ""


class Store:
    """Found marks and other arrays by name, a file each; without a folder they are kept nowhere.

    A file that cannot be read, such as what a killed run left, is as if it were not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arrays(self, name: str) -> dict[str, Any] | None:
        """What was kept under a name."""
        try:
            content = io.BytesIO(self._path(name).read_bytes())
            with np.load(content, allow_pickle=False) as kept:
                return {key: kept[key] for key in kept.files}
        except Exception:  # zipfile, zlib and numpy have many errors for a broken archive
            return None

    def keep(self, name: str, arrays: dict[str, Any]) -> None:
        """Keep arrays under a name, whole or not at all."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=target.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(stream.getvalue())
            Path(part).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise

    def found(self, name: str) -> Found | None:
        """The mark that was kept under a name."""
        kept = self.arrays(name)
        try:
            return None if kept is None else _unpacked(kept)
        except (KeyError, ValueError, TypeError):
            return None

    def keep_found(self, name: str, found: Found) -> None:
        self.keep(name, _packed(found))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def _packed(found: Found) -> dict[str, Any]:
    facts: dict[str, Any] = {"seconds": found.seconds, "refusal": found.refusal}
    one = found.decision
    if one is None:
        return {"facts": np.array(json.dumps(facts))}
    facts |= {
        "x": one.mark.x,
        "y": one.mark.y,
        "alpha": one.mark.alpha,
        "sit": vars(one.sit),
        "divisor": one.divisor,
        "source": one.lesions.source,
        "queries": one.queries,
        "gradients": one.gradients,
        "shared": one.shared,
        "label": one.label,
    }
    arrays = {
        "facts": np.array(json.dumps(facts)),
        "logo": one.mark.logo,
        "boxes": _numbers(one.lesions.boxes),
        "exact": _numbers(one.lesions.exact),
    }
    return arrays if one.delta is None else {**arrays, "delta": one.delta.grid}


def _unpacked(kept: dict[str, Any]) -> Found:
    facts = json.loads(str(kept["facts"]))
    if facts["refusal"]:
        return Found(None, facts["seconds"], facts["refusal"])
    decision = Decision(
        mark=Mark(facts["x"], facts["y"], facts["alpha"], kept["logo"]),
        sit=Sit(**facts["sit"]),
        divisor=facts["divisor"],
        lesions=Lesions(_boxes(kept["boxes"]), facts["source"], _boxes(kept["exact"])),
        queries=facts["queries"],
        shared=facts["shared"],
        label=facts["label"],
        delta=Delta(kept["delta"]) if "delta" in kept else None,
        gradients=facts["gradients"],
    )
    return Found(decision, facts["seconds"])


def _numbers(boxes: tuple[Box, ...]) -> Any:
    return np.array([[one.x, one.y, one.width, one.height] for one in boxes], np.int64).reshape(
        -1, 4
    )


def _boxes(numbers: Any) -> tuple[Box, ...]:
    return tuple(Box(*(int(one) for one in row)) for row in numbers)
