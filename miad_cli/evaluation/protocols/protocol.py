"""What a protocol is: units of work, and what they come to."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from miad_cli.errors import PictureFailed
from miad_cli.evaluation.findings import Bars, Curves, Figure, Headline, Table
from miad_cli.evaluation.ledger import Key
from miad_cli.evaluation.protocols.bench import Bench, Subject, unreadable
from miad_cli.evaluation.protocols.material import Material
from miad_cli.evaluation.protocols.treatments import Treatment


@dataclass(frozen=True)
class Cell:
    """What is measured on each picture by itself.

    Attributes:
        name: tells it from the protocol's other cells.
        measure: the figures of one picture, as JSON has them.
        needs: the ways in which the picture is protected for it, on every picture.
        asks: about how many more times a model looks at a picture.
        most: on how many of the pictures; None: on all.
        treatment: another way, on some pictures only.
    """

    name: str
    measure: Callable[[Bench, Subject], dict[str, Any]]
    needs: tuple[Treatment, ...] = ()
    asks: int = 0
    most: int | None = None
    treatment: Treatment | None = None

    def subjects(self, bench: Bench) -> tuple[Subject, ...]:
        """The pictures that it is measured on."""
        return bench.subjects[: self.most]


@dataclass(frozen=True)
class Whole:
    """What is measured on all pictures together, after the cells."""

    name: str
    measure: Callable[[Bench], dict[str, Any]]
    asks: int = 0


@dataclass(frozen=True)
class Section:
    """What a protocol found. `sentences` are for the summary, `limits` for what it does not
    show."""

    tables: tuple[Table, ...] = ()
    curves: tuple[Curves, ...] = ()
    bars: tuple[Bars, ...] = ()
    values: dict[str, Figure] = field(default_factory=dict)
    headlines: tuple[Headline, ...] = ()
    sentences: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class Protocol(ABC):
    """One protocol on one run's material; nothing is measured when it is made."""

    name: ClassVar[str]

    def __init__(self, material: Material) -> None:
        self.material = material

    @staticmethod
    def obstacle(material: Material) -> str:
        """Why it cannot be measured with these models; empty where it can."""
        del material
        return ""

    @property
    @abstractmethod
    def cells(self) -> tuple[Cell, ...]:
        """Its units of work on each picture."""

    @property
    def wholes(self) -> tuple[Whole, ...]:
        """Its units of work on all pictures together."""
        return ()

    @property
    @abstractmethod
    def figures(self) -> tuple[str, ...]:
        """The names of what `--fail-if` may ask for."""

    @abstractmethod
    def section(self, bench: Bench) -> Section:
        """What was found, once everything is measured."""

    # --- Reading what was measured ------------------------------------------------------------

    def of(self, bench: Bench, cell: Cell) -> Iterator[tuple[Subject, dict[str, Any]]]:
        """The figures of a cell, picture by picture; those that could not be protected are left
        out."""
        for subject in cell.subjects(bench):
            figures = bench.measured(self.key(cell, subject), lambda: cell.measure(bench, subject))  # noqa: B023 - called at once
            if "refused" not in figures:
                yield subject, figures

    def of_whole(self, bench: Bench, whole: Whole) -> dict[str, Any]:
        """The figures of all pictures together, which depend on which these are."""
        key = Key(self.name, whole.name, _together(bench.subjects))
        return bench.measured(key, lambda: whole.measure(bench))

    def key(self, cell: Cell, subject: Subject) -> Key:
        treated = hashlib.sha256(repr((cell.needs, cell.treatment)).encode()).hexdigest()
        return Key(self.name, f"{cell.name} {treated[:12]}", subject.digest)


def measure_all(protocols: Sequence[Protocol], bench: Bench, progress: Callable[[], None]) -> None:
    """Measure whatever is not known yet, picture by picture; `progress` after each unit.

    Raises:
        PictureFailed: a picture that could be read when the run began cannot be now.
    """
    for subject in bench.subjects:
        try:
            for protocol in protocols:
                for cell in protocol.cells:
                    if subject in cell.subjects(bench):
                        measure(protocol, cell, bench, subject)
                        progress()
        except PictureFailed as error:
            raise unreadable(subject, error) from error
    measure_wholes(protocols, bench, progress)


def measure_wholes(
    protocols: Sequence[Protocol], bench: Bench, progress: Callable[[], None]
) -> None:
    """Measure what takes all pictures together, after the cells."""
    for protocol in protocols:
        for whole in protocol.wholes:
            protocol.of_whole(bench, whole)
            progress()


def measure(protocol: Protocol, cell: Cell, bench: Bench, subject: Subject) -> None:
    """One unit of work, as far as it is not known yet."""
    bench.measured(protocol.key(cell, subject), lambda: cell.measure(bench, subject))
    for treatment in cell.needs:
        bench.quality(subject, treatment)


def is_known(protocol: Protocol, cell: Cell, bench: Bench, subject: Subject) -> bool:
    """Whether a unit of work is done."""
    keys = [protocol.key(cell, subject)]
    keys += [bench.quality_key(subject, treatment) for treatment in cell.needs]
    return all(bench.known(key) is not None for key in keys)


def units(protocols: Sequence[Protocol], pictures: int) -> int:
    """How many units of work there are on so many pictures."""
    return sum(
        sum(min(pictures, pictures if cell.most is None else cell.most) for cell in one.cells)
        + len(one.wholes)
        for one in protocols
    )


def passes(protocols: Sequence[Protocol], pictures: int) -> int:
    """About how many times one model looks at a picture in all of it."""
    count = 0
    treated: dict[Treatment, int] = {}
    for cell in (cell for one in protocols for cell in one.cells):
        most = min(pictures, pictures if cell.most is None else cell.most)
        count += cell.asks * most
        for treatment in cell.needs:
            treated[treatment] = max(treated.get(treatment, 0), most)
    count += sum(treatment.passes * most for treatment, most in treated.items())
    return count + sum(whole.asks * pictures for one in protocols for whole in one.wholes)


def _together(subjects: Sequence[Subject]) -> str:
    joined = "\n".join(one.digest for one in subjects)
    return hashlib.sha256(joined.encode()).hexdigest()[:32]
