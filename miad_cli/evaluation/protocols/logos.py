"""`logos`: how much depends on the logo (MIAD-MARK Fig. 7)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from miad_cli.demo import draw_logo
from miad_cli.evaluation.findings import Beside, Column, Table
from miad_cli.evaluation.paper import paper_for
from miad_cli.evaluation.protocols.asking import asked_after, present, said_in
from miad_cli.evaluation.protocols.bench import Bench, Material
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import Tally, quality_table
from miad_cli.evaluation.protocols.treatments import OWN
from miad_cli.watermark.blend import Bytes
from miad_cli.watermark.logo import load_logo

DRAWN = {
    "plate": "emblem and name on a white plate",
    "wordmark": "a word of one colour, nothing behind it",
    "disc": "a full disc of one colour",
    "tiles": "tiles of many colours",
}
"""Logos that are drawn for this, and what they are like."""


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

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def figures(self) -> tuple[str, ...]:
        return ("logos.accuracy", "logos.spread", *(f"logos.{one}.accuracy" for one in self._cells))

    def section(self, bench: Bench) -> Section:
        tally, paper = Tally(bench.material.seed), paper_for(bench.task)
        found = {logo: said_in(self, bench, cell) for logo, cell in self._cells.items()}
        accuracies = {logo: tally.accuracy(answers) for logo, answers in found.items()}
        mean = tally.accuracy([one for answers in found.values() for one in answers])
        measured = [one.value for one in accuracies.values() if one is not None]
        spread = float(np.std(measured)) if measured else None
        rows = [("mean", "", Beside(mean, paper.logos))]
        rows += [
            (logo, DRAWN.get(logo, "the one that was given"), Beside(one, None))
            for logo, one in accuracies.items()
        ]
        model = one_model(self.material)
        table = Table(
            "logos", "logos", "Several logos",
            f"The model {model} attacked alone, with each logo in turn.",
            (
                Column("logo", "logo"),
                Column("kind", "what it is"),
                Column("accuracy", "accuracy after", "lower"),
            ),
            tuple(rows),
            "" if spread is None else f"Standard deviation between logos: {spread:.3f}.",
        )  # fmt: skip
        quality = quality_table(
            "logos", bench, tally, {logo: [*cell.needs] for logo, cell in self._cells.items()}
        )
        values = {f"logos.{logo}.accuracy": one for logo, one in accuracies.items()}
        return Section(
            tables=(table, quality),
            values=present({**values, "logos.accuracy": mean, "logos.spread": spread}),
        )


def one_model(material: Material) -> str:
    """The model that the paper studies by itself: DenseNet for brain MRI, ResNet for the rest; the
    first where there is no such one."""
    wanted = "densenet" if material.task == "brain_mri" else "resnet"
    fitting = [
        name for name, one in material.models.items() if one.manifest.family.startswith(wanted)
    ]
    return (fitting or list(material.models))[0]


def drawn_logos() -> Iterator[tuple[str, Bytes]]:
    """The drawn logos by name: (rows, columns, 4) uint8 RGBA."""
    with tempfile.TemporaryDirectory(prefix="miad-") as folder:
        path = Path(folder) / "plate.png"
        draw_logo(path)
        yield "plate", load_logo(path)
    for name, draw in (("wordmark", _wordmark), ("disc", _disc), ("tiles", _tiles)):
        canvas = Image.new("RGBA", (440, 244), (0, 0, 0, 0))
        draw(ImageDraw.Draw(canvas))
        yield name, np.asarray(canvas)


def _wordmark(pen: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(96)
    pen.text((220, 122), "CLINIC", font=font, fill=(200, 30, 45, 255), anchor="mm")


def _disc(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((98, 0, 341, 243), fill=(0, 122, 94, 255))


def _tiles(pen: ImageDraw.ImageDraw) -> None:
    colours = ((226, 88, 34), (36, 113, 163), (241, 196, 15), (125, 60, 152), (40, 180, 99))
    for row in range(4):
        for column in range(7):
            colour = colours[(2 * row + column) % len(colours)]
            left, top = 4 + column * 62, 2 + row * 61
            pen.rectangle((left, top, left + 56, top + 55), fill=(*colour, 255))
