"""`strength`: what protection costs the reader: δ's bound, its shape, and the size of the logo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from miad_cli.evaluation.findings import Cell as Shown
from miad_cli.evaluation.findings import Column, Table
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench
from miad_cli.evaluation.protocols.material import Material, nothing_to_leave_out, one_model
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import QUALITY, Tally, qualities, quality_row
from miad_cli.watermark.marking import Perturbing, Settings


@dataclass(frozen=True)
class Point:
    """One strength: sl of Eq. 5, δ's bound in 1/255 (0: no δ), and whether flat ground gets less
    of it."""

    divisor: int
    epsilon: int
    shaped: bool = True

    @property
    def name(self) -> str:
        flat = "" if self.shaped else "-flat"
        return f"sl-{self.divisor}-epsilon-{self.epsilon}{flat}"


POINTS = (
    *(Point(2, epsilon) for epsilon in (0, 2, 4, 8, 12)),
    *(Point(2, epsilon, shaped=False) for epsilon in (2, 4, 8, 12)),
    *(Point(4, epsilon) for epsilon in (0, 8)),
)


class Strength(Protocol):
    """One family held out, all others attacked, at several strengths; otherwise as `miad protect`
    does it."""

    name = "strength"

    @staticmethod
    def obstacle(material: Material) -> str:
        return nothing_to_leave_out(material)

    @cached_property
    def held_out(self) -> str:
        """The family of the model that the paper studies by itself."""
        return self.material.models[one_model(self.material)].manifest.family

    @cached_property
    def _cells(self) -> dict[Point, Cell]:
        everyone = tuple(self.material.models)
        cells = {}
        for point in POINTS:
            settings = changed(self.material.settings, point)
            treatment = self.material.without(self.held_out, settings)
            cells[point] = Cell(
                point.name, partial(asked_after, treatment, everyone), (treatment,), len(everyone)
            )
        return cells

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(
            f"strength.{point.name}.{part}"
            for point in POINTS
            for part in ("accuracy", "seen.accuracy", "ssim")
        )

    def section(self, bench: Bench) -> Section:
        tally = Tally(bench.material.seed)
        tested = self.material.families[self.held_out]
        attacked = tuple(one for one in self.material.models if one not in tested)
        outside = [one.key for one in QUALITY].index("outside")
        values: dict[str, Any] = {}
        rows: list[tuple[Shown, ...]] = []
        for point, cell in self._cells.items():
            unseen, seen = (
                tally.accuracy(said_in(self, bench, cell, models)) for models in (tested, attacked)
            )
            looks = quality_row(tally, qualities(bench, bench.subjects, cell.needs))
            kind = ("shaped" if point.shaped else "flat") if point.epsilon else "none"
            rows.append((point.divisor, point.epsilon, kind, unseen, seen, *looks))
            values |= {
                f"strength.{point.name}.accuracy": unseen,
                f"strength.{point.name}.seen.accuracy": seen,
                f"strength.{point.name}.ssim": looks[outside],
            }
        table = Table(
            "strength", "strength", "What protection costs the reader",
            f"The family {self.held_out} held out and asked, all others attacked together.",
            (
                Column("sl", "sl", digits=0),
                Column("epsilon", "bound of δ, 1/255", digits=0),
                Column("shape", "δ on flat ground"),
                Column("accuracy", "accuracy, the family held out", "lower"),
                Column("seen", "accuracy, models that were attacked", "lower"),
                *QUALITY,
            ),
            tuple(rows),
            "Shaped: less of δ where the eye sees more; flat: the same bound everywhere.",
        )  # fmt: skip
        return Section(tables=(table,), values=present(values))


def changed(own: Settings, point: Point) -> Settings:
    """The profile's settings at another strength."""
    largest = max((*own.divisors, point.divisor))
    settings = replace(own, divisors=tuple(range(point.divisor, largest + 1)))
    if not point.epsilon:
        return replace(settings, perturbing=None)
    made = own.perturbing or Perturbing()
    attack = replace(made.attack, epsilon=float(point.epsilon), shaped=point.shaped)
    return replace(settings, perturbing=replace(made, attack=attack))
