"""`unseen`: models that had no part in the search (MIAD-MARK Fig. 2c), and MedLocker's matrix."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

from miad_cli.evaluation.findings import Bar, Bars, Beside, Column, Figure, Headline, Table
from miad_cli.evaluation.paper import UNSEEN, paper_for
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench
from miad_cli.evaluation.protocols.material import Material, nothing_to_leave_out
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import Answers, Tally, quality_table


class Unseen(Protocol):
    """Each family left out of the search in turn, and tested."""

    name = "unseen"

    @staticmethod
    def obstacle(material: Material) -> str:
        return nothing_to_leave_out(material)

    @cached_property
    def left_out(self) -> dict[str, Cell]:
        """By family: the others attacked, its models asked."""
        cells = {}
        for family, models in self.material.families.items():
            treatment = self.material.without(family)
            cells[family] = Cell(
                f"without {family}", partial(asked_after, treatment, models), (treatment,),
                len(models),
            )  # fmt: skip
        return cells

    @cached_property
    def as_printed(self) -> dict[str, Cell]:
        """The same with the paper's own search, and without δ."""
        cells: dict[str, Cell] = {}
        if not self.material.baselines:
            return cells
        for family, models in self.material.families.items():
            treatment = self.material.without(family, self.material.paper)
            cells[family] = Cell(
                f"he-sit, without {family}", partial(asked_after, treatment, models),
                (treatment,), len(models),
            )  # fmt: skip
        return cells

    @cached_property
    def sources(self) -> dict[str, Cell]:
        """By source, the first model of each family: it alone attacked, all models asked."""
        everyone = tuple(self.material.models)
        cells = {}
        for models in self.material.families.values():
            treatment = self.material.alone(models[0])
            cells[models[0]] = Cell(
                f"from {models[0]}", partial(asked_after, treatment, everyone), (treatment,),
                len(everyone),
            )  # fmt: skip
        return cells

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self.left_out.values(), *self.as_printed.values(), *self.sources.values())

    @property
    def figures(self) -> tuple[str, ...]:
        families = (f"unseen.{family}.accuracy" for family in self.left_out)
        printed = ("unseen.he-sit.accuracy",) if self.as_printed else ()
        return (
            "unseen.accuracy", "unseen.auc", "unseen.ssim", "unseen.delta", "unseen.worst.accuracy",
            "unseen.matrix.accuracy", *printed, *families,
        )  # fmt: skip

    def section(self, bench: Bench) -> Section:
        tally, paper = Tally(bench.material.seed), paper_for(bench.task)
        by_family = {name: said_in(self, bench, cell) for name, cell in self.left_out.items()}
        pooled = _all_of(by_family)
        printed = {name: said_in(self, bench, cell) for name, cell in self.as_printed.items()}
        accuracies = {name: tally.accuracy(answers) for name, answers in by_family.items()}
        treated = {f"without {name}": [*cell.needs] for name, cell in self.left_out.items()}
        every = [one for needs in treated.values() for one in needs]
        quality = quality_table("unseen", bench, tally, {"mean": every, **treated})
        looks = dict(zip((one.key for one in quality.columns), quality.rows[0], strict=True))
        found = tally.accuracy(pooled)
        measured = [one for one in accuracies.values() if one is not None]
        values: dict[str, Any] = {
            "unseen.accuracy": found,
            "unseen.auc": tally.auc(pooled),
            "unseen.ssim": looks["outside"],
            "unseen.delta": looks["delta"],
            "unseen.worst.accuracy": max(measured, key=lambda one: one.value, default=None),
            "unseen.he-sit.accuracy": tally.accuracy(_all_of(printed)),
            "unseen.matrix.accuracy": tally.accuracy(self._elsewhere(bench)),
        }
        values |= {f"unseen.{name}.accuracy": one for name, one in accuracies.items()}
        headline = () if found is None else (
            Headline(
                "Diagnoses left, unknown models", found,
                "How often a model that had no part in the search still diagnoses rightly.",
                paper.unseen or UNSEEN, "lower", as_share=True,
            ),
        )  # fmt: skip
        return Section(
            tables=(
                self._table(tally, by_family, printed, paper.unseen or UNSEEN),
                self._matrix(bench, tally),
                quality,
            ),
            bars=(
                Bars(
                    "unseen-bars", "unseen", "Accuracy of the family left out",
                    "The search asked the others; the mark is the paper's mean.",
                    (("", tuple(Bar(name, one, paper.unseen or UNSEEN)
                                for name, one in accuracies.items())),),
                    "accuracy", better="lower",
                ),
            ),
            values=present(values),
            headlines=headline,
            limits=("Models that nobody tested may do better or worse.",),
        )  # fmt: skip

    def _table(
        self,
        tally: Tally,
        by_family: dict[str, Answers],
        printed: dict[str, Answers],
        paper: float,
    ) -> Table:
        pooled = _all_of(by_family)
        rows: list[tuple[Any, ...]] = [(
            "mean", "", Beside(tally.accuracy(pooled), paper), tally.auc(pooled),
            Beside(tally.accuracy(_all_of(printed)), paper),
        )]  # fmt: skip
        rows += [
            (family, ", ".join(self.material.families[family]),
             Beside(tally.accuracy(answers), None), tally.auc(answers),
             Beside(tally.accuracy(printed.get(family, [])), None))
            for family, answers in by_family.items()
        ]  # fmt: skip
        return Table(
            "unseen",
            "unseen",
            "One family left out",
            "The search asks all other families; the models of this one are tested. Before "
            "protection, 1.00.",
            (
                Column("family", "left out"),
                Column("models", "tested"),
                Column("accuracy", "accuracy after", "lower"),
                Column("auc", "ROC-AUC after", "lower", 3),
                Column("he_sit", "accuracy after he-sit without δ", "lower"),
            ),
            tuple(rows),
            "The paper's search is HE-SIT, without δ.",
        )

    def _elsewhere(self, bench: Bench) -> list[Any]:
        """Answers of models of other families than the source's."""
        models = self.material.models
        return [
            answer
            for source, cell in self.sources.items()
            for answer in said_in(self, bench, cell)
            if models[answer.model].manifest.family != models[source].manifest.family
        ]

    def _matrix(self, bench: Bench, tally: Tally) -> Table:
        targets = tuple(self.material.models)
        rows = []
        for source, cell in self.sources.items():
            cells: list[Figure | None] = [
                tally.accuracy(said_in(self, bench, cell, (target,))) for target in targets
            ]
            rows.append((source, *cells))
        columns = tuple(
            Column(f"model_{place}", target, "lower") for place, target in enumerate(targets, 1)
        )
        return Table(
            "unseen-matrix",
            "unseen",
            "From one model to each other",
            "One model is attacked alone (a row, one of each family); accuracy of every model "
            "(a column) on the result.",
            (Column("source", "attacked"), *columns),
            tuple(rows),
            "Where the logo may not be is said by one model for all rows.",
        )


def _all_of(by_family: dict[str, Answers]) -> Answers:
    return [one for answers in by_family.values() for one in answers]
