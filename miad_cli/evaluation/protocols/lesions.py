"""`lesions`: how much of annotated lesions logo and δ lie on, by who says where lesions are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from miad_cli.evaluation.findings import Cell as Shown
from miad_cli.evaluation.findings import Column, Table
from miad_cli.evaluation.protocols.asking import present
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import Tally, answers_of
from miad_cli.evaluation.protocols.treatments import Treatment

PARTS = ("under-logo", "touched", "under-delta", "touched-by-delta", "accuracy")


@dataclass(frozen=True)
class _Source:
    """Who says where lesions are."""

    title: str
    treatment: Treatment


class LesionSources(Protocol):
    """All models attacked together, the logo kept off what attention, a segmentation network or
    the annotation itself takes for lesion; on annotated pictures alone."""

    name = "lesions"

    @cached_property
    def sources(self) -> dict[str, _Source]:
        """By the name that figures have."""
        own, network = self.material.everyone(), self.material.bank.segmentation
        eye = self.material.bank.attention.manifest
        attention = "grad-cam" if eye.looks else "occlusion"  # the model itself is not loaded
        sources: dict[str, _Source] = {
            attention: _Source(
                f"{attention} through {eye.name}",
                replace(own, lesions="attention") if network else own,
            )
        }
        if network:
            sources["segmentation"] = _Source(
                f"the segmentation network {network.manifest.name}", own
            )
        sources["mask"] = _Source("the annotation (--mask)", replace(own, lesions="annotation"))
        return sources

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        models = len(self.material.models)
        return {
            name: Cell(
                name,
                partial(_measured, one.treatment),
                treatment=one.treatment,
                asks=one.treatment.passes + models,
            )
            for name, one in self.sources.items()
        }

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(f"lesions.{name}.{part}" for name in self.sources for part in PARTS)

    def section(self, bench: Bench) -> Section:
        tally = Tally(bench.material.seed)
        values: dict[str, Any] = {}
        rows: list[tuple[Shown, ...]] = []
        for name, source in self.sources.items():
            found = [
                (subject, figures)
                for subject, figures in self.of(bench, self._cells[name])
                if figures["annotated"]
            ]
            measured = _figures(tally, found)
            values |= {f"lesions.{name}.{part}": one for part, one in measured.items()}
            rows.append((source.title, len(found), *(measured[part] for part in PARTS)))
        table = Table(
            "lesions", "lesions", "Who says where lesions are",
            "How much of an annotated lesion lies under logo and δ, all models attacked together.",
            (
                Column("source", "lesions from"),
                Column("pictures", "annotated pictures", digits=0),
                Column("under_logo", "lesion under the logo, share", "lower", 3),
                Column("touched", "pictures with any of it under the logo", "lower"),
                Column("under_delta", "lesion under δ, share", "lower", 3),
                Column("touched_by_delta", "pictures with any of it under δ", "lower"),
                Column("accuracy", "accuracy after", "lower"),
            ),
            tuple(rows),
            "" if any(row[1] for row in rows) else "No picture that took part has an annotation.",
        )  # fmt: skip
        return Section(tables=(table,), values=present(values))


def _measured(treatment: Treatment, bench: Bench, subject: Subject) -> dict[str, Any]:
    if bench.annotation(subject) is None:
        return {"annotated": False}
    made, quality = bench.protected(subject, treatment), bench.quality(subject, treatment)
    return {
        "annotated": True,
        "logo": quality["under_logo"],
        "delta": quality["under_delta"],
        "said": bench.said_of(subject, made.stored),
    }


def _figures(tally: Tally, found: list[tuple[Subject, dict[str, Any]]]) -> dict[str, Any]:
    """By `PARTS`."""
    figures: dict[str, Any] = {}
    for part, touched, key in (
        ("under-logo", "touched", "logo"), ("under-delta", "touched-by-delta", "delta"),
    ):  # fmt: skip
        figures[part] = tally.mean((subject, one[key]) for subject, one in found)
        figures[touched] = tally.share([(subject, one[key] > 0) for subject, one in found])
    figures["accuracy"] = tally.accuracy(
        [answer for subject, one in found for answer in answers_of(subject, one["said"])]
    )
    return figures
