"""Units of work and their reading that several protocols share."""

from __future__ import annotations

from typing import Any

from miad_cli.evaluation.findings import Figure
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.protocol import Cell, Protocol
from miad_cli.evaluation.protocols.tally import Answers, answers_of
from miad_cli.evaluation.protocols.treatments import Treatment


def asked_after(
    treatment: Treatment, models: tuple[str, ...], bench: Bench, subject: Subject
) -> dict[str, Any]:
    """What models say of the picture after a treatment."""
    stored = bench.protected(subject, treatment).stored
    return {"said": bench.said_of(subject, stored, models)}


def said_in(protocol: Protocol, bench: Bench, cell: Cell, models: tuple[str, ...] = ()) -> Answers:
    """All answers (or those of some models) of a cell whose figures are what models `said`."""
    return [
        answer
        for subject, figures in protocol.of(bench, cell)
        for answer in answers_of(subject, figures["said"], models or None)
    ]


def present(values: dict[str, Figure | None]) -> dict[str, Figure]:
    """Those that were measured."""
    return {name: one for name, one in values.items() if one is not None}
