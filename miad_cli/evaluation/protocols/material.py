"""What a run is about: models, settings and logos, and the ways to protect that follow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.decisions import settings_of
from miad_cli.errors import UsageError
from miad_cli.evaluation.protocols.logo_drawings import drawn_logos
from miad_cli.evaluation.protocols.treatments import OWN, Treatment
from miad_cli.models.bank import Bank, Surrogate, load_bank
from miad_cli.models.session import Device
from miad_cli.models.view import view_for
from miad_cli.profiles import Profile
from miad_cli.watermark.blend import Bytes
from miad_cli.watermark.marking import Settings

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Material:
    """What a run is about: the models, how `miad protect` would work, the logos by name.

    baselines: whether other ways to protect are measured beside it, the paper's own above all.
    """

    bank: Bank
    settings: Settings
    logos: Mapping[str, Bytes]
    seed: int
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    baselines: bool = True

    @property
    def task(self) -> str:
        """The task that the models answer.

        Raises:
            UsageError: they answer none, so nothing can be right or wrong.
        """
        if self.bank.task is None:
            raise UsageError("no installed model answers a task that these pictures could be of")
        return self.bank.task

    @cached_property
    def models(self) -> dict[str, Surrogate]:
        """The classifiers by name."""
        return {one.manifest.name: one for one in self.bank.surrogates}

    @cached_property
    def removers(self) -> dict[str, Surrogate]:
        """The removal networks by name."""
        return {one.manifest.name: one for one in self.bank.removers}

    @cached_property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The names of each family's classifiers."""
        families: dict[str, list[str]] = {}
        for name, one in self.models.items():
            families.setdefault(one.manifest.family, []).append(name)
        return {family: tuple(names) for family, names in families.items()}

    def everyone(self, settings: Settings | None = None, **other: Any) -> Treatment:
        """All classifiers attacked together."""
        attention = self.bank.attention.manifest.name
        return Treatment(
            tuple(self.models), settings or self.settings, attention, tuple(self.removers), **other
        )

    def alone(self, model: str, settings: Settings | None = None, logo: str = OWN) -> Treatment:
        """One classifier attacked by itself; where the logo may not be is said by the same model
        for all of them, as in the paper."""
        return replace(self.everyone(settings), models=(model,), logo=logo)

    @cached_property
    def paper(self) -> Settings:
        """HE-SIT without δ, the paper's default; its numbers are the profile's."""
        return replace(self.settings, method="he-sit", perturbing=None)

    def without(self, family: str, settings: Settings | None = None) -> Treatment:
        """All classifiers but those of a family, which has no say in where the logo goes."""
        left = tuple(name for name in self.models if name not in self.families[family])
        attention = self.bank.attention.manifest
        if attention.family != family:
            return replace(self.everyone(settings), models=left)
        looking = [name for name in left if self.models[name].manifest.looks]
        return replace(self.everyone(settings), models=left, attention=(looking or left)[0])

    def bank_for(self, treatment: Treatment) -> Bank:
        """The bank that a treatment asks."""
        attention = self.models.get(treatment.attention, self.bank.attention)
        return replace(
            self.bank,
            surrogates=tuple(self.models[name] for name in treatment.models),
            attention=attention,
            segmentation=self.bank.segmentation if treatment.lesions == "profile" else None,
            removers=tuple(self.removers[name] for name in treatment.removers),
        )


def nothing_to_leave_out(material: Material) -> str:
    """Why no family can be left out of an attack; empty where one can."""
    if len(material.families) < 2:
        return "leaving a family out takes models of two families at least"
    return ""


def one_model(material: Material) -> str:
    """The model that the paper studies by itself: DenseNet for brain MRI, ResNet for the rest; the
    first where there is no such one."""
    wanted = "densenet" if material.task == "brain_mri" else "resnet"
    fitting = [
        name for name, one in material.models.items() if one.manifest.family.startswith(wanted)
    ]
    return (fitting or list(material.models))[0]


@dataclass(frozen=True, eq=False)
class Setup:
    """What a run is made from, small enough to be handed to another process.

    `logo`: (rows, columns, 4) uint8, the one that the user gave; `baselines`: see `Material`.
    """

    profile: Profile
    logo: Bytes
    seed: int
    device: Device
    baselines: bool = True

    def material(self) -> Material:
        """Models are only loaded when they are first asked.

        Raises:
            UsageError, ModelUnusable: the profile names models that cannot be used.
        """
        wanted = self.profile.models
        bank = load_bank(
            wanted.task, wanted.names, wanted.attention, self.device, self.profile.lesions.network
        )
        logos = {OWN: self.logo, **dict(drawn_logos())}
        return Material(
            bank,
            settings_of(self.profile),
            logos,
            self.seed,
            _fingerprints(bank, logos),
            self.baselines,
        )


def _fingerprints(bank: Bank, logos: Mapping[str, Bytes]) -> dict[str, str]:
    """SHA-256 of models and logos by name."""
    every = [*bank.surrogates, bank.attention, *bank.removers]
    every += [bank.segmentation] if bank.segmentation else []
    prints = {one.manifest.name: one.manifest.sha256 for one in every}
    for name, logo in logos.items():
        content = repr(logo.shape).encode() + logo.tobytes()
        prints[f"logo {name}"] = hashlib.sha256(content).hexdigest()
    if bank.segmentation:
        prints["segmentation"] = bank.segmentation.manifest.sha256
    return prints


def ask(material: Material, windowed: Float, models: Sequence[str] = ()) -> dict[str, list[float]]:
    """What models say of a displayed picture (rows, columns, 1 or 3) in 0..1: class probabilities
    by name, in the order of the task's classes."""
    seen = np.broadcast_to(windowed, (*windowed.shape[:2], 3))
    answers = {}
    for name in models or material.models:
        surrogate = material.models[name]
        view = view_for(surrogate.manifest.input, *seen.shape[:2]).of(seen).astype(np.float32)
        given = surrogate.session.run(view[None])
        chances = surrogate.session.probabilities(given, material.task)[0]
        answers[name] = [float(one) for one in chances]
    return answers
