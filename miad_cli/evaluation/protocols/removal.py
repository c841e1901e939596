"""`removal`: what removal networks make of protected pictures, with and without δ (MIAD-MARK
Fig. 5b, 5c, 8 and Table 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from miad_cli.evaluation import metrics
from miad_cli.evaluation.findings import Bar, Bars, Beside, Column, Headline, Table
from miad_cli.evaluation.paper import REMOVED, Paper, paper_for
from miad_cli.evaluation.protocols.asking import present
from miad_cli.evaluation.protocols.bench import Bench, Subject, likeness
from miad_cli.evaluation.protocols.material import Material
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import (
    Answers,
    Tally,
    answers_of,
    quality_table,
)
from miad_cli.evaluation.protocols.treatments import Treatment
from miad_cli.watermark.marking import Perturbing
from miad_cli.watermark.perturbation import Weights

PAPER_STEPS = 50
"""Of δ, MIAD-MARK Eq. 1."""

BASELINES = (
    "before", "after", "he-sit", "noise", "disrupt", "inerasable", "disrupt-after",
    "inerasable-after",
)  # fmt: skip
"""Kinds of δ that are measured to compare with."""

NO_NETWORK = "no removal network is installed"


@dataclass(frozen=True)
class _Kind:
    """One way to have, or not to have, a δ.

    `in_table_1` and `in_fig_8b` name the paper's figures for it; in the figure δ is added after
    the search.
    """

    title: str
    treatment: Treatment
    networks: tuple[str, ...]
    in_table_1: str = ""
    in_fig_8b: str = ""


class Removal(Protocol):
    """Every removal network on every kind of δ."""

    name = "removal"

    @staticmethod
    def obstacle(material: Material) -> str:
        return "" if material.removers else NO_NETWORK

    @cached_property
    def kinds(self) -> dict[str, _Kind]:
        """Kinds of δ by the name that figures have."""
        own = self.material.settings
        made = own.perturbing or Perturbing()
        steps, networks = made.before + made.around, tuple(self.material.removers)

        def everyone(perturbing: Perturbing | None, **other: Any) -> Treatment:
            return self.material.everyone(replace(own, perturbing=perturbing), **other)

        def printed(perturbing: Perturbing | None, **other: Any) -> Treatment:
            settings = replace(self.material.paper, perturbing=perturbing)
            return self.material.everyone(settings, **other)

        disrupt, inerase = _as_printed(made, disrupt=1.0), _as_printed(made, inerase=1.0)
        kinds = {
            "nothing": _Kind("none", everyone(None), networks),
            "delta": _Kind("δ as miad makes it", everyone(made), networks),
            "before": _Kind(
                "δ before the search", everyone(replace(made, before=steps, around=0)), networks
            ),
            "after": _Kind(
                "δ after the search", everyone(replace(made, before=0, around=steps)), networks
            ),
            "he-sit": _Kind("none, he-sit", printed(None), networks, "nothing", "nothing"),
            "noise": _Kind(
                "random noise, he-sit", printed(disrupt, noise=True), networks, "noise", "noise"
            ),
            "disrupt": _Kind("δ_D, then he-sit", printed(disrupt), networks, "disrupt"),
            "inerasable": _Kind("δ_I, then he-sit", printed(inerase), networks, "inerasable"),
            "disrupt-after": _Kind(
                "he-sit, then δ_D", printed(_late(disrupt)), networks, "", "disrupt"
            ),
            "inerasable-after": _Kind(
                "he-sit, then δ_I", printed(_late(inerase)), networks, "", "inerasable"
            ),
        }
        for network in networks:
            others = tuple(one for one in networks if one != network)
            kinds[f"against-others-{network}"] = _Kind(
                f"δ made without {network}", replace(everyone(made), removers=others), (network,)
            )
        if self.material.baselines:
            return kinds
        return {name: one for name, one in kinds.items() if name not in BASELINES}

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        models = len(self.material.models)
        return {
            name: Cell(
                name, partial(_measured, kind.treatment, kind.networks), (kind.treatment,),
                models + len(kind.networks) * (models + 2),
            )
            for name, kind in self.kinds.items()
        }  # fmt: skip

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(self._names())

    def _names(self) -> Iterator[str]:
        parts = ("accuracy", "ssim", "psnr", "rmse")
        yield from (f"removal.{part}" for part in parts)
        yield "removal.before-removal.accuracy"
        for kind in self.kinds:
            yield from (f"removal.{kind}.{part}" for part in parts if kind != "delta")
        for network in self.material.removers:
            yield from (f"removal.{network}.{part}" for part in parts)
        yield "removal.held-out.accuracy"

    def section(self, bench: Bench) -> Section:
        tally, paper = Tally(bench.material.seed), paper_for(bench.task)
        data = {name: list(self.of(bench, cell)) for name, cell in self._cells.items()}
        values: dict[str, Any] = {}
        for name, found in data.items():
            prefix = "removal" if name == "delta" else f"removal.{name}"
            values |= _figures(tally, prefix, found, self.kinds[name].networks)
        for network in self.material.removers:
            values |= _figures(tally, f"removal.{network}", data["delta"], (network,))
        values["removal.before-removal.accuracy"] = tally.accuracy(_before(data["delta"]))
        held = [one for name in data if name.startswith("against-others-")
                for one in _after(data[name], self.kinds[name].networks)]  # fmt: skip
        if held:
            values["removal.held-out.accuracy"] = tally.accuracy(held)
        quality = quality_table(
            "removal", bench, tally, {one.title: [one.treatment] for one in self.kinds.values()}
        )
        return Section(
            tables=(
                self._outputs(tally, data, paper),
                self._models(tally, data, paper),
                self._kinds(tally, data, paper),
                quality,
            ),
            bars=(self._bars(tally, data),),
            values=present(values),
            headlines=_headlines(values),
            limits=(
                "A removal network that was not tried, or was trained on protected pictures, may "
                "do better.",
            ),
        )

    def _outputs(self, tally: Tally, data: dict[str, Any], paper: Paper) -> Table:
        """Fig. 5b."""
        rows: list[tuple[Any, ...]] = []
        for place, name in enumerate(("nothing", "delta", "he-sit", "disrupt")):
            if name not in data:
                continue
            for network in self.material.removers:
                looks = _looks(tally, data[name], (network,))
                printed = {part: pair[place % 2] for part, pair in paper.removal.items()}
                rows.append((
                    network, self.kinds[name].title,
                    *(Beside(looks[part], printed.get(part)) for part in ("psnr", "ssim", "rmse")),
                ))  # fmt: skip
        return Table(
            "removal-output", "removal", "What removal networks give back",
            "The network's picture against the original. The less alike, the less an infringer "
            "has of it.",
            (
                Column("network", "network"),
                Column("delta", "δ"),
                Column("psnr", "PSNR, dB", "lower", 1),
                Column("ssim", "SSIM", "lower", 3),
                Column("rmse", "RMSE, grey levels", "higher", 2),
            ),
            tuple(rows),
            "The paper's figures are means of SplitNet and WDNet. Ours hold what a network's own "
            "input size costs.",
        )  # fmt: skip

    def _models(self, tally: Tally, data: dict[str, Any], paper: Paper) -> Table:
        """Fig. 5c."""
        rows: list[tuple[Any, ...]] = []
        for model in (None, *self.material.models):
            chosen = tuple(self.material.models) if model is None else (model,)
            for network in self.material.removers:
                found = [
                    tally.accuracy(_after(data[name], (network,), chosen))
                    for name in ("nothing", "delta", f"against-others-{network}")
                ]
                printed = [
                    Beside(tally.accuracy(_after(data.get(name, []), (network,), chosen)), theirs)
                    for name, theirs in zip(
                        ("he-sit", "disrupt"),
                        paper.removed if model is None and paper.removed else (None, None),
                        strict=True,
                    )
                ]
                rows.append((model or "all", network, *found, *printed))
        return Table(
            "removal-accuracy", "removal", "Diagnoses after removal",
            "Accuracy on what the network gives back.",
            (
                Column("model", "model"),
                Column("network", "network"),
                Column("without", "accuracy, no δ", "lower"),
                Column("with_delta", "accuracy, with δ", "lower"),
                Column("held_out", "accuracy, δ made without the network", "lower"),
                Column("he_sit", "accuracy, he-sit, no δ", "lower"),
                Column("he_sit_delta", "accuracy, he-sit over δ_D", "lower"),
            ),
            tuple(rows),
            "The paper's figures are with HE-SIT, without δ and over δ_D made against the very "
            "network.",
        )  # fmt: skip

    def _kinds(self, tally: Tally, data: dict[str, Any], paper: Paper) -> Table:
        """Fig. 8 and Table 1."""
        rows = []
        for name, kind in self.kinds.items():
            found = data[name]
            looks = _looks(tally, found, kind.networks)
            rows.append((
                kind.title, ", ".join(kind.networks),
                Beside(tally.accuracy(_before(found)), paper.before.get(kind.in_fig_8b)),
                Beside(
                    tally.accuracy(_after(found, kind.networks)), paper.after.get(kind.in_fig_8b)
                ),
                Beside(looks["ssim"], paper.kinds.get(kind.in_table_1)),
                looks["psnr"],
            ))  # fmt: skip
        return Table(
            "removal-kinds", "removal", "Kinds of δ",
            "The same pictures over different δ, and what the networks make of them.",
            (
                Column("delta", "δ"),
                Column("networks", "networks"),
                Column("before", "accuracy before removal", "lower"),
                Column("after", "accuracy after removal", "lower"),
                Column("ssim", "SSIM of the output", "lower", 3),
                Column("psnr", "PSNR of the output, dB", "lower", 1),
            ),
            tuple(rows),
            "The paper's accuracy is with δ added after the search (Fig. 8b), its SSIM is Table 1; "
            "δ_D and δ_I are its own, 50 steps, against networks alone. A δ made without a network "
            "shows what an unknown one can do.",
        )  # fmt: skip

    def _bars(self, tally: Tally, data: dict[str, Any]) -> Bars:
        groups = [
            (network, tuple(
                Bar(title, tally.accuracy(_after(data[name], (network,))), printed)
                for name, title, printed in (
                    ("nothing", "no δ", None), ("delta", "with δ", REMOVED),
                )
            ))
            for network in self.material.removers
        ]  # fmt: skip
        return Bars(
            "removal-bars", "removal", "Accuracy after removal",
            "By network; all models' answers together.", tuple(groups), "accuracy",
            better="lower",
        )  # fmt: skip


def _as_printed(made: Perturbing, **weights: float) -> Perturbing:
    """δ_D or δ_I alone, all of it before the search, as Eq. 1 has it: no map of what the eye
    forgives, no memory of earlier steps, no transforms."""
    attack = replace(
        made.attack,
        epsilon=8.0,
        shaped=False,
        step_size=2.0,
        momentum=0.0,
        transforms=False,
        coarse=False,
        remover_every=1,
        weights=replace(Weights(classifiers=0, features=0, disrupt=0, inerase=0), **weights),
    )
    return Perturbing(attack, PAPER_STEPS, 0, made.shared)


def _late(made: Perturbing) -> Perturbing:
    """All of it after the search (Fig. 8b)."""
    return replace(made, before=0, around=made.before)


Found = list[tuple[Subject, dict[str, Any]]]


def _measured(
    treatment: Treatment, networks: tuple[str, ...], bench: Bench, subject: Subject
) -> dict[str, Any]:
    made = bench.protected(subject, treatment)
    clean = bench.shown(subject, bench.original(subject))
    protected = bench.shown(subject, made.stored)
    eight = np.rint(protected * 255).astype(np.uint8)
    figures: dict[str, Any] = {"said": bench.said(protected), "networks": {}}
    for network in networks:
        output = bench.removed(network, eight).astype(np.float32) / np.float32(255)
        figures["networks"][network] = {
            "said": bench.said(output),
            "psnr": metrics.psnr(clean, output, data_range=1.0),
            "rmse": metrics.rmse(clean, output, data_range=1.0),
            "ssim": likeness(clean, output),
        }
    return figures


def _before(found: Found) -> Answers:
    return [one for subject, figures in found for one in answers_of(subject, figures["said"])]


def _after(
    found: Found, networks: tuple[str, ...], models: tuple[str, ...] | None = None
) -> Answers:
    return [
        one
        for subject, figures in found
        for network in networks
        for one in answers_of(subject, figures["networks"][network]["said"], models)
    ]


def _looks(tally: Tally, found: Found, networks: tuple[str, ...]) -> dict[str, Any]:
    return {
        part: tally.mean(
            (subject, figures["networks"][network][part])
            for subject, figures in found
            for network in networks
        )
        for part in ("psnr", "ssim", "rmse")
    }


def _figures(tally: Tally, prefix: str, found: Found, networks: tuple[str, ...]) -> dict[str, Any]:
    figures = {f"{prefix}.{part}": one for part, one in _looks(tally, found, networks).items()}
    return {f"{prefix}.accuracy": tally.accuracy(_after(found, networks)), **figures}


def _headlines(values: dict[str, Any]) -> tuple[Headline, ...]:
    found = values["removal.accuracy"]
    if found is None:
        return ()
    return (
        Headline(
            "Diagnoses left after removal", found,
            "How often a model diagnoses rightly what a removal network gave back.",
            REMOVED, "lower", as_share=True,
        ),
    )  # fmt: skip
