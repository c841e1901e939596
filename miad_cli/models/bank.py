"""The surrogate bank: which models there are, and which ones a profile uses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.models.gradients import Differentiable
from miad_cli.models.manifest import Manifest, checked_model_bytes, load_manifest
from miad_cli.models.session import Device, Session
from miad_cli.shipped import models_directory


class Surrogate:
    """One model of the bank: its manifest, and its two engines, each made once when first asked.

    Raises ModelUnusable at construction when the file is not the one the manifest describes.
    """

    def __init__(self, folder: Path, device: Device) -> None:
        self.manifest: Manifest = load_manifest(folder)
        self._content = checked_model_bytes(folder, self.manifest)
        self._device = device

    @cached_property
    def session(self) -> Session:
        return Session(self.manifest, self._content, self._device)

    @cached_property
    def differentiable(self) -> Differentiable:
        return Differentiable(self.manifest, self._content, self.session)


@dataclass(frozen=True)
class Bank:
    """The models a run uses.

    `task` is None where none of them was trained for the study; `attention`, the model that
    Grad-CAM looks through, need not be one of the surrogates.
    """

    surrogates: tuple[Surrogate, ...]
    task: str | None
    attention: Surrogate

    @property
    def digest(self) -> str:
        """SHA-256 over the models' checksums in order: the same bank, the same digest."""
        joined = "\n".join(one.manifest.sha256 for one in self.surrogates)
        return hashlib.sha256(joined.encode()).hexdigest()


def list_models(root: Path | None = None) -> list[Path]:
    """Folders below `root` (default: the shipped ones) that hold a manifest, by name."""
    root = models_directory() if root is None else root
    return sorted(path.parent for path in root.glob("*/manifest.toml"))


def load_bank(
    task: str | None, names: Sequence[str], attention: str | None, device: Device
) -> Bank:
    """The classifiers for `task`, or, where none knows it, all of them as feature extractors.

    `names` restricts the choice to models of these names; `attention` names the one that
    Grad-CAM looks through (default: the first that has a tensor for it).

    Raises:
        UsageError: a name that no model has.
        ModelUnusable: no classifier at all, or a file that is not the one its manifest describes.
    """
    everyone = [Surrogate(folder, device) for folder in list_models()]
    classifiers = [one for one in everyone if one.manifest.role == "classifier"]
    known = {one.manifest.name: one for one in classifiers}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"no model is called {', '.join(unknown)}", hint=f"There are: {', '.join(known)}."
        )
    chosen = [known[name] for name in names] if names else classifiers
    able = [one for one in chosen if task and one.manifest.output_for(task)]
    used = able or [one for one in chosen if one.manifest.features]
    if not used:
        raise ModelUnusable("no classifier is installed that could be attacked")
    answering = [one for one in classifiers if not able or one.manifest.output_for(task or "")]
    looking = [one for one in (*used, *answering) if one.manifest.cam]
    preferred = [one for one in looking if one.manifest.name == attention]
    if not looking:
        raise ModelUnusable("no classifier for this task names a tensor for Grad-CAM")
    return Bank(tuple(used), task if able else None, (preferred or looking)[0])
