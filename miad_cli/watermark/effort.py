"""How much work goes into one picture: the numbers behind fast, standard and max."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from miad_cli.watermark.guided import Plan

EffortName = Literal["fast", "standard", "max"]


@dataclass(frozen=True)
class Effort:
    """One of them.

    Attributes:
        plan: of the guided search.
        before, around, shared: steps of δ, before the search, around the logo that was found, and
            for each picture of a series that begins with what the series shares.
        models_per_step: classifiers that are asked in a step of δ; 0: all.
        remover_every: every so manieth step asks a removal network.
    """

    plan: Plan
    before: int
    around: int
    shared: int
    models_per_step: int
    remover_every: int


EFFORTS: Mapping[EffortName, Effort] = MappingProxyType(
    {
        "fast": Effort(
            Plan(seeds=8, rounds=0, children=0, sits=4, bases=1, models=3), 0, 10, 3, 2, 5
        ),
        "standard": Effort(Plan(seeds=16, rounds=1, children=8, sits=8, bases=2), 6, 24, 8, 3, 3),
        "max": Effort(Plan(seeds=60, rounds=10, children=24, sits=24), 20, 60, 30, 0, 2),
    }
)
