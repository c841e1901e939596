"""`seen`: each model attacked by itself and asked again (MIAD-MARK Fig. 2b, 3), and all of them
attacked together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from miad_cli.evaluation.findings import (
    Bar,
    Bars,
    Beside,
    Column,
    Curve,
    Curves,
    Headline,
    Table,
)
from miad_cli.evaluation.paper import SEEN, paper_for
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import (
    Answers,
    Tally,
    quality_table,
)
from miad_cli.evaluation.protocols.treatments import Treatment
from miad_cli.watermark.marking import Settings
from miad_cli.watermark.search import Method

METHODS: tuple[Method, ...] = ("random", "he", "he-sit", "guided")
"""Searches without δ; the paper's three, and ours."""

ALL = "all models"


class Seen(Protocol):
    """Attacked and tested on the same models."""

    name = "seen"

    @cached_property
    def ways(self) -> dict[str, Settings]:
        """Settings by name: searches with the logo alone, then what `miad protect` would do."""
        own = self.material.settings
        if not self.material.baselines:
            return {self.own: own}
        ways: dict[str, Settings] = {
            one: replace(own, method=one, perturbing=None) for one in METHODS
        }
        if own not in ways.values():
            ways[self.own] = own
        return ways

    @cached_property
    def own(self) -> str:
        """What `miad protect` would do, in words."""
        own = self.material.settings
        return own.method + (" + δ" if own.perturbing else "")

    @cached_property
    def _alone(self) -> dict[tuple[str, str], Cell]:
        """Cells by way and model."""
        return {
            (way, model): _cell(f"{way}, {model}", self.material.alone(model, settings), (model,))
            for way, settings in self.ways.items()
            for model in self.material.models
        }

    @cached_property
    def _together(self) -> Cell:
        models = tuple(self.material.models)
        return _cell("ensemble", self.material.everyone(), models)

    @cached_property
    def _clean(self) -> Cell:
        return Cell("clean", _clean, asks=len(self.material.models))

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self._clean, *self._alone.values(), self._together)

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(self._names())

    def _names(self) -> Iterator[str]:
        yield from ("seen.accuracy", "seen.auc", "seen.ssim", "seen.delta")
        searches = [one for one in METHODS if one in self.ways]
        yield from (f"seen.{one}.{part}" for one in searches for part in ("accuracy", "auc"))
        yield from ("seen.ensemble.accuracy", "seen.ensemble.auc", "seen.ensemble.ssim")
        yield from (f"seen.{model}.accuracy" for model in self.material.models)

    def section(self, bench: Bench) -> Section:
        tally = Tally(bench.material.seed)
        paper = paper_for(bench.task)
        pooled = {way: self._answers(bench, way) for way in self.ways}
        together = said_in(self, bench, self._together)
        treated = self._treated()
        quality = quality_table("seen", bench, tally, treated)
        column = [one.key for one in quality.columns].index
        looks = {str(row[0]): row for row in quality.rows}
        values: dict[str, Any] = {
            "seen.accuracy": tally.accuracy(pooled[self.own]),
            "seen.auc": tally.auc(pooled[self.own]),
            "seen.ssim": looks[self.own][column("outside")],
            "seen.delta": looks[self.own][column("delta")],
            "seen.ensemble.accuracy": tally.accuracy(together),
            "seen.ensemble.auc": tally.auc(together),
            "seen.ensemble.ssim": looks[ALL][column("outside")],
        }
        for way in (one for one in METHODS if one in pooled):
            values[f"seen.{way}.accuracy"] = tally.accuracy(pooled[way])
            values[f"seen.{way}.auc"] = tally.auc(pooled[way])
        for model in self.material.models:
            values[f"seen.{model}.accuracy"] = tally.accuracy(self._answers(bench, self.own, model))
        return Section(
            tables=(self._table(bench, tally, pooled, together, looks, column("queries")), quality),
            curves=self._curves(bench, tally, pooled, paper.auc),
            bars=(self._bars(bench, tally),),
            values=present(values),
            headlines=self._headlines(values),
        )

    def _answers(self, bench: Bench, way: str, model: str = "") -> Answers:
        """Each model's answers where it was attacked by itself."""
        chosen = [model] if model else list(self.material.models)
        return [one for name in chosen for one in said_in(self, bench, self._alone[way, name])]

    def _treated(self) -> dict[str, list[Treatment]]:
        rows = {
            way: [self.material.alone(model, settings) for model in self.material.models]
            for way, settings in self.ways.items()
        }
        return {**rows, ALL: [self.material.everyone()]}

    def _table(
        self,
        bench: Bench,
        tally: Tally,
        pooled: dict[str, Answers],
        together: Answers,
        looks: dict[str, Any],
        queries: int,
    ) -> Table:
        paper = paper_for(bench.task)
        rows: list[tuple[Any, ...]] = []
        for way, answers in pooled.items():
            own = way == "he-sit"
            rows.append((
                way, "each alone, mean", Beside(tally.accuracy(answers), SEEN.get(way)),
                Beside(tally.auc(answers), paper.auc if own else None),
                Beside(looks[way][queries], paper.queries if own else None),
            ))  # fmt: skip
            rows += [
                (way, model, Beside(tally.accuracy(self._answers(bench, way, model)), None),
                 Beside(None, None), Beside(None, None))
                for model in self.material.models
            ]  # fmt: skip
        rows.append((
            self.own, "all attacked together", Beside(tally.accuracy(together), None),
            Beside(tally.auc(together), None), Beside(looks[ALL][queries], None),
        ))  # fmt: skip
        return Table(
            "seen",
            "seen",
            "Models that the search asked",
            "Accuracy after protection, on the very models that were attacked; before it, 1.00.",
            (
                Column("search", "search"),
                Column("models", "models"),
                Column("accuracy", "accuracy after", "lower"),
                Column("auc", "ROC-AUC after", "lower", 3),
                Column("queries", "candidates scored", None, 1),
            ),
            tuple(rows),
            "The paper's figures are means over its models and data sets. Its searches are run as "
            "it describes them, without δ.",
        )

    def _curves(
        self, bench: Bench, tally: Tally, pooled: dict[str, Answers], paper: float | None
    ) -> tuple[Curves, ...]:
        named = {"clean": said_in(self, bench, self._clean), **pooled}
        made: list[Curve] = []
        for name, answers in named.items():
            curve = tally.curve(name, answers, paper if name == "he-sit" else None)
            made += [curve] if curve else []
        if not made:
            return ()
        return (
            Curves(
                "seen-roc", "seen", "ROC, each model attacked alone",
                "Micro-average, one class against the rest; all models' answers together.",
                tuple(made),
            ),
        )  # fmt: skip

    def _bars(self, bench: Bench, tally: Tally) -> Bars:
        groups = [
            (model, tuple(
                Bar(way, tally.accuracy(self._answers(bench, way, model)), SEEN.get(way))
                for way in self.ways
            ))
            for model in self.material.models
        ]  # fmt: skip
        return Bars(
            "seen-bars", "seen", "Accuracy after protection, each model attacked alone",
            "By model and search; marks are the paper's means.",
            tuple(groups), "accuracy", better="lower",
        )  # fmt: skip

    def _headlines(self, values: dict[str, Any]) -> tuple[Headline, ...]:
        found = values["seen.accuracy"]
        if found is None:
            return ()
        return (
            Headline(
                "Diagnoses left, attacked models", found,
                "How often a model still diagnoses rightly that was attacked by itself.",
                SEEN["he-sit"], "lower", as_share=True,
            ),
        )  # fmt: skip


def _cell(name: str, treatment: Treatment, models: tuple[str, ...]) -> Cell:
    return Cell(name, partial(asked_after, treatment, models), (treatment,), len(models))


def _clean(bench: Bench, subject: Subject) -> dict[str, Any]:
    return {"said": bench.said_of(subject, bench.original(subject))}
