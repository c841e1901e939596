"""`sweep`: the search's own numbers, one at a time (MIAD-MARK Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from miad_cli.evaluation.findings import Cell as Shown
from miad_cli.evaluation.findings import Column, Table
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench
from miad_cli.evaluation.protocols.material import one_model
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import QUALITY, Tally, qualities, quality_row
from miad_cli.watermark.marking import Settings

MOST = 8
"""Pictures of a reduced sweep."""


@dataclass(frozen=True)
class _Parameter:
    """One number: what it is called in figures and in the paper, and the values to try."""

    name: str
    title: str
    values: tuple[float, ...]


PARAMETERS = (
    _Parameter("sl", "sl, logo scale divisor", (2, 3, 4)),
    _Parameter("t", "t, threshold of attention", (100, 150, 190, 230)),
    _Parameter("r_p", "r_p, density of the first grid", (0.001, 0.005, 0.01)),
    _Parameter("n_p", "N_p, parents", (5, 15, 25)),
    _Parameter("n_g", "N_g, generations", (1, 2, 4)),
    _Parameter("s_alpha", "s_α, step of transparency", (5, 15, 45)),
    _Parameter("r_c", "r_c, share of children kept", (0.1, 0.3, 0.6)),
)

_IN_BUDGET = {
    "r_p": "density", "n_p": "parents", "n_g": "generations", "s_alpha": "alpha_step",
    "r_c": "keep",
}  # fmt: skip


class Sweep(Protocol):
    """HE-SIT with one number changed, on one model."""

    name = "sweep"

    @cached_property
    def _cells(self) -> dict[tuple[str, float], Cell]:
        model = one_model(self.material)
        cells = {}
        for parameter in PARAMETERS:
            for value in parameter.values:
                settings = changed(self.material.settings, parameter.name, value)
                treatment = self.material.alone(model, settings)
                cells[parameter.name, value] = Cell(
                    _named(parameter.name, value), partial(asked_after, treatment, (model,)),
                    (treatment,), 1, MOST,
                )  # fmt: skip
        return cells

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(f"sweep.{_named(*place)}.accuracy" for place in self._cells)

    def section(self, bench: Bench) -> Section:
        tally = Tally(bench.material.seed)
        accuracies = {
            place: tally.accuracy(said_in(self, bench, cell)) for place, cell in self._cells.items()
        }
        values: dict[str, Any] = {
            f"sweep.{_named(*place)}.accuracy": one for place, one in accuracies.items()
        }
        return Section(
            tables=tuple(self._table(bench, tally, accuracies, one) for one in PARAMETERS),
            values=present(values),
        )

    def _table(
        self, bench: Bench, tally: Tally, accuracies: dict[Any, Any], parameter: _Parameter
    ) -> Table:
        rows: list[Sequence[Shown]] = []
        for value in parameter.values:
            cell = self._cells[parameter.name, value]
            found = qualities(bench, cell.subjects(bench), cell.needs)
            rows.append((f"{value:g}", accuracies[parameter.name, value],
                         *quality_row(tally, found)))  # fmt: skip
        return Table(
            f"sweep-{parameter.name.replace('_', '-')}",
            "sweep",
            parameter.title,
            f"HE-SIT without δ on {one_model(self.material)}, all other numbers as in the profile; "
            f"at most {MOST} pictures.",
            (
                Column("value", "value"),
                Column("accuracy", "accuracy after", "lower"),
                *QUALITY,
            ),
            tuple(tuple(row) for row in rows),
        )


def changed(own: Settings, name: str, value: float) -> Settings:
    """The paper's HE-SIT with the profile's numbers, but for one of them."""
    settings = replace(own, method="he-sit", perturbing=None)
    if name == "sl":
        return replace(settings, divisors=tuple(range(int(value), max(own.divisors) + 1)))
    if name == "t":
        return replace(settings, threshold=value)
    whole = name in ("n_p", "n_g", "s_alpha")
    number: Any = int(value) if whole else value
    return replace(settings, budget=replace(settings.budget, **{_IN_BUDGET[name]: number}))


def _named(name: str, value: float) -> str:
    return f"{name}-{value:g}"
