"""`logos`: how much depends on the logo (MIAD-MARK Fig. 7)."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np

from miad_cli.evaluation.findings import Beside, Column, Table
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.paper import paper_for
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench
from miad_cli.evaluation.protocols.logo_drawings import DRAWN
from miad_cli.evaluation.protocols.material import one_model
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import Answers, Tally, quality_table
from miad_cli.evaluation.protocols.treatments import OWN


class Logos(Protocol):
    """One model attacked with several logos."""

    name = "logos"

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        model = one_model(self.material)
        cells = {}
        for logo in (OWN, *DRAWN):
            treatment = self.material.alone(model, logo=logo)
            cells[logo] = Cell(logo, partial(asked_after, treatment, (model,)), (treatment,), 1)
        return cells

    @cached_property
    def _as_printed(self) -> dict[str, Cell]:
        """The same with the paper's own search, and without δ."""
        model = one_model(self.material)
        cells = {}
        for logo in (OWN, *DRAWN):
            treatment = self.material.alone(model, self.material.paper, logo)
            cells[logo] = Cell(
                f"he-sit, {logo}", partial(asked_after, treatment, (model,)), (treatment,), 1
            )
        return cells

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self._cells.values(), *self._as_printed.values())

    @property
    def figures(self) -> tuple[str, ...]:
        parts = ("accuracy", "spread")
        return (
            *(f"logos.{part}" for part in parts),
            *(f"logos.he-sit.{part}" for part in parts),
            *(f"logos.{one}.accuracy" for one in self._cells),
        )

    def section(self, bench: Bench) -> Section:
        tally, paper = Tally(bench.material.seed), paper_for(bench.task)
        own = {logo: said_in(self, bench, cell) for logo, cell in self._cells.items()}
        printed = {logo: said_in(self, bench, cell) for logo, cell in self._as_printed.items()}
        values: dict[str, Any] = {
            f"logos.{logo}.accuracy": tally.accuracy(answers) for logo, answers in own.items()
        }
        rows: list[tuple[Any, ...]] = [(
            "mean", "", Beside(_mean(tally, own), paper.logos),
            Beside(_mean(tally, printed), paper.logos),
        )]  # fmt: skip
        rows += [
            (logo, DRAWN.get(logo, "the one that was given"),
             Beside(tally.accuracy(own[logo]), None), Beside(tally.accuracy(printed[logo]), None))
            for logo in own
        ]  # fmt: skip
        spreads = [_spread(tally, one) for one in (own, printed)]
        values |= {
            "logos.accuracy": _mean(tally, own), "logos.spread": spreads[0],
            "logos.he-sit.accuracy": _mean(tally, printed), "logos.he-sit.spread": spreads[1],
        }  # fmt: skip
        model = one_model(self.material)
        said = [f"{one:.3f}" for one in spreads if one is not None]
        table = Table(
            "logos", "logos", "Several logos",
            f"The model {model} attacked alone, with each logo in turn.",
            (
                Column("logo", "logo"),
                Column("kind", "what it is"),
                Column("accuracy", "accuracy after", "lower"),
                Column("he_sit", "accuracy after he-sit without δ", "lower"),
            ),
            tuple(rows),
            f"Standard deviation between logos: {', '.join(said)}." if said else "",
        )  # fmt: skip
        quality = quality_table(
            "logos", bench, tally,
            {
                **{logo: [*cell.needs] for logo, cell in self._cells.items()},
                **{f"{logo}, he-sit": [*cell.needs] for logo, cell in self._as_printed.items()},
            },
        )  # fmt: skip
        return Section(tables=(table, quality), values=present(values))


def _mean(tally: Tally, found: dict[str, Answers]) -> Estimate | None:
    return tally.accuracy([one for answers in found.values() for one in answers])


def _spread(tally: Tally, found: dict[str, Answers]) -> float | None:
    """Standard deviation of the logos' accuracies."""
    accuracies = [tally.accuracy(answers) for answers in found.values()]
    measured = [one.value for one in accuracies if one is not None]
    return float(np.std(measured)) if measured else None
