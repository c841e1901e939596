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
from miad_cli.evaluation.protocols.bench import Bench, Material, Subject, likeness
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

NO_NETWORK = "no removal network is installed"


@dataclass(frozen=True)
class _Kind:
    """One way to have, or not to have, a δ. `printed` names the paper's figure for it."""

    title: str
    treatment: Treatment
    networks: tuple[str, ...]
    printed: str = ""


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

        def aimed(**weights: float) -> Perturbing:
            only = replace(Weights(classifiers=0, features=0, disrupt=0, inerase=0), **weights)
            return replace(made, attack=replace(made.attack, weights=only, remover_every=1))

        kinds = {
            "nothing": _Kind("none", everyone(None), networks, "nothing"),
            "delta": _Kind("δ as miad makes it", everyone(made), networks),
            "noise": _Kind("random noise", everyone(made, noise=True), networks, "noise"),
            "disrupt": _Kind("δ_D alone", everyone(aimed(disrupt=1.0)), networks, "disrupt"),
            "inerasable": _Kind("δ_I alone", everyone(aimed(inerase=1.0)), networks, "inerasable"),
            "before": _Kind(
                "δ before the search", everyone(replace(made, before=steps, around=0)), networks
            ),
            "after": _Kind(
                "δ after the search", everyone(replace(made, before=0, around=steps)), networks
            ),
        }
        for network in networks if len(networks) > 1 else ():
            others = tuple(one for one in networks if one != network)
            kinds[f"against-others-{network}"] = _Kind(
                f"δ made without {network}", replace(everyone(made), removers=others), (network,)
            )
        return kinds

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
        if len(self.material.removers) > 1:
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
        for place, name in enumerate(("nothing", "delta")):
            for network in self.material.removers:
                looks = _looks(tally, data[name], (network,))
                printed = {part: pair[place] for part, pair in paper.removal.items()}
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
                before, after = (
                    tally.accuracy(_after(data[name], (network,), chosen))
                    for name in ("nothing", "delta")
                )
                removed = paper.removed if model is None and paper.removed else (None, None)
                rows.append((model or "all", network, Beside(before, removed[0]),
                             Beside(after, removed[1])))  # fmt: skip
        return Table(
            "removal-accuracy", "removal", "Diagnoses after removal",
            "Accuracy on what the network gives back.",
            (
                Column("model", "model"),
                Column("network", "network"),
                Column("without", "accuracy, no δ", "lower"),
                Column("with_delta", "accuracy, with δ", "lower"),
            ),
            tuple(rows),
        )  # fmt: skip

    def _kinds(self, tally: Tally, data: dict[str, Any], paper: Paper) -> Table:
        """Fig. 8 and Table 1."""
        rows = []
        for name, kind in self.kinds.items():
            found = data[name]
            looks = _looks(tally, found, kind.networks)
            rows.append((
                kind.title, ", ".join(kind.networks), tally.accuracy(_before(found)),
                Beside(tally.accuracy(_after(found, kind.networks)), paper.after.get(kind.printed)),
                Beside(looks["ssim"], paper.kinds.get(kind.printed)),
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
            "The paper's accuracy is with δ added after the search (Fig. 8b), its SSIM is Table 1. "
            "A δ made without a network shows what an unknown one can do.",
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
