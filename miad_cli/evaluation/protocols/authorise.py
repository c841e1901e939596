"""`authorise`: what a key holder gets back (MIAD-MARK Fig. 4b), through the real files."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from miad_cli.errors import MiadError
from miad_cli.evaluation.findings import Beside, Column, Headline, Table
from miad_cli.evaluation.paper import paper_for
from miad_cli.evaluation.protocols.asking import present
from miad_cli.evaluation.protocols.bench import Bench, Subject, likeness
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section
from miad_cli.evaluation.protocols.tally import Tally, answers_of, quality_table
from miad_cli.files import read_file
from miad_cli.imaging.picture import read_picture
from miad_cli.instance import Sealing, write_instance
from miad_cli.seal.identities import load_identities, new_identity, parse_recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.unlock import unlock
from miad_cli.watermark.marking import apply_mark

STAGES = {
    "original": "the original",
    "protected": "protected",
    "unblended": "logo taken off with the key, δ still in",
    "recovered": "unlocked with the key",
}


class Authorise(Protocol):
    """Protected, sealed and written as `miad protect` does it, and unlocked again."""

    name = "authorise"

    @cached_property
    def _cell(self) -> Cell:
        everyone = self.material.everyone()
        return Cell("files", self._measure, (everyone,), 5 * len(self.material.models))

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self._cell,)

    @property
    def figures(self) -> tuple[str, ...]:
        parts = (f"authorise.{stage}.{part}" for stage in STAGES for part in ("accuracy", "ssim"))
        return ("authorise.identical", *parts)

    def _measure(self, bench: Bench, subject: Subject) -> dict[str, Any]:
        made = bench.protected(subject, self.material.everyone())
        original = bench.original(subject)
        try:
            recovered, identical = self._through_files(bench, subject)
        except MiadError:  # it would be named as failed, and nothing of it written
            recovered, identical = None, False
        stages = {
            "original": original,
            "protected": made.stored,
            "unblended": made.beneath,
            "recovered": recovered,
        }
        clean = bench.shown(subject, original)
        figures: dict[str, Any] = {"identical": identical}
        for name, stored in stages.items():
            if stored is None:  # it could not be unlocked: counted, with nothing to look at
                figures[name] = None
                continue
            shown = bench.shown(subject, stored)
            figures[name] = {"said": bench.said(shown), "ssim": likeness(clean, shown)}
        return figures

    def _through_files(self, bench: Bench, subject: Subject) -> tuple[Any, bool]:
        """The key frame after it was written, sealed and unlocked, and whether the file is the
        original's, byte for byte. Keys are made for it and thrown away."""
        picture = subject.case.picture()
        material, treatment = self.material, self.material.everyone()
        decision = bench.protected(subject, treatment).decision
        marking = apply_mark(decision, picture.image, material.bank_for(treatment))
        with tempfile.TemporaryDirectory(prefix="miad-") as made:
            folder = Path(made)
            recipient = parse_recipient(new_identity(folder / "key.txt"))
            owner = OwnerKey.generate()
            sealing = Sealing(
                owner, (recipient,), (b"evaluation",), material.bank.digest, "auto", "both"
            )
            suffix = ".dcm" if hasattr(picture, "dataset") else ".png"
            target = folder / "protected" / f"picture{suffix}"
            target.parent.mkdir()
            write_instance(target, f"original{suffix}", picture, marking, sealing)
            identities = load_identities(folder / "key.txt")
            report = unlock([target], folder / "unlocked", identities, [owner.public])
            files = [one.output for one in report.outcomes if one.output is not None]
            if len(files) != 1:
                return None, False
            content = read_file(folder / "unlocked" / files[0])
            return self._key_frame(content, files[0]), content == picture.content

    @staticmethod
    def _key_frame(content: bytes, name: Any) -> Any:
        try:
            image = read_picture(content, name).image  # type: ignore[union-attr]
        except (MiadError, AttributeError):
            return None
        return image.stored[image.key_frame]

    def section(self, bench: Bench) -> Section:
        tally, paper = Tally(bench.material.seed), paper_for(bench.task)
        found = list(self.of(bench, self._cell))
        printed = {
            "original": (1.0, 1.0), "protected": paper.marked, "unblended": paper.unblended,
            "recovered": (1.0, 1.0),
        }  # fmt: skip
        same = sum(figures["identical"] for _, figures in found)
        values: dict[str, Any] = {
            "authorise.identical": tally.share([(one, f["identical"]) for one, f in found])
        }
        rows = []
        for stage, title in STAGES.items():
            there = [(one, figures[stage]) for one, figures in found if figures[stage]]
            accuracy = tally.accuracy(
                [answer for one, figures in there for answer in answers_of(one, figures["said"])]
            )
            ssim = tally.mean((one, figures["ssim"]) for one, figures in there)
            values[f"authorise.{stage}.accuracy"] = accuracy
            values[f"authorise.{stage}.ssim"] = ssim
            theirs = printed[stage] or (None, None)
            identical: Any = None
            if stage == "recovered":
                identical = f"{same} of {len(found)}"
            rows.append((title, Beside(accuracy, theirs[0]), Beside(ssim, theirs[1]), identical))
        table = Table(
            "authorise",
            "authorise",
            "What a key holder gets back",
            "Accuracy of all models and likeness to the original, stage by stage, through the "
            "files as they are written, sealed and unlocked.",
            (
                Column("stage", "stage"),
                Column("accuracy", "accuracy"),
                Column("ssim", "SSIM", None, 3),
                Column("identical", "files identical to the byte"),
            ),
            tuple(rows),
        )
        quality = quality_table(
            "authorise", bench, tally, {"protected": [self.material.everyone()]}
        )
        return Section(
            tables=(table, quality),
            values=present(values),
            headlines=(
                Headline(
                    "Restored exactly", f"{same} of {len(found)}",
                    "Files identical to their originals, to the byte, after unlocking.",
                ),
            ),
            sentences=(
                (f"With the key {same} of {len(found)} files came back byte for byte.",)
                if found else ()
            ),
        )  # fmt: skip
