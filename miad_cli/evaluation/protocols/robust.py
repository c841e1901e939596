"""`robust`: counterattacks as an infringer would try them, and one who trains on protected
pictures."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import ModelUnusable
from miad_cli.evaluation.adaptive import fine_tuned
from miad_cli.evaluation.counterattacks import Counterattack, counterattacks
from miad_cli.evaluation.findings import Bar, Bars, Column, Headline, Table
from miad_cli.evaluation.protocols.asking import present
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.material import Material
from miad_cli.evaluation.protocols.protocol import Cell, Protocol, Section, Whole
from miad_cli.evaluation.protocols.tally import Answer, Answers, Tally, answers_of, quality_table
from miad_cli.evaluation.protocols.treatments import Treatment

Picture = NDArray[np.uint8]

FOLDS = 2
"""The infringer learns from one half of the patients and is judged on the other, and the other
way round."""


class Robust(Protocol):
    """Every counterattack, against all models attacked together and each family held out."""

    name = "robust"

    @staticmethod
    def obstacle(material: Material) -> str:
        del material
        if importlib.util.find_spec("cv2") is None:
            return 'OpenCV is not installed (pip install "miad[report]")'
        return ""

    @cached_property
    def attacks(self) -> dict[str, Counterattack]:
        """Counterattacks by name; those that take a removal network only where there is one."""
        return {
            name: one
            for name, one in counterattacks().items()
            if one.needs != "remover" or self.material.removers
        }

    @cached_property
    def treatments(self) -> dict[str, tuple[Treatment, tuple[str, ...]]]:
        """What is protected and who is asked: all (`""`), then each family held out."""
        everyone = (self.material.everyone(), tuple(self.material.models))
        held_out = {}
        if len(self.material.families) > 1:
            held_out = {
                family: (self.material.without(family), models)
                for family, models in self.material.families.items()
            }
        return {"": everyone, **held_out}

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        needs = tuple(one for one, _ in self.treatments.values())
        asked = sum(len(models) for _, models in self.treatments.values())
        cells = {}
        for name, one in self.attacks.items():
            networks = len(self.material.removers) if one.needs == "remover" else 1
            asks = networks * (asked + len(needs) * 2 * (one.needs == "remover"))
            cells[name] = Cell(name, partial(self._measure, one), needs, asks)
        return cells

    @cached_property
    def _adaptive(self) -> Whole:
        return Whole("adaptive", self._adapted, 3 * len(self.material.models))

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self._cells.values())

    @property
    def wholes(self) -> tuple[Whole, ...]:
        return (self._adaptive,)

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(self._names())

    def _names(self) -> Iterator[str]:
        for name in (*self.attacks, "worst"):
            yield f"robust.{name}.accuracy"
            if len(self.treatments) > 1:
                yield f"robust.{name}.unseen.accuracy"
        yield "robust.adaptive.accuracy"
        yield "robust.adaptive.clean.accuracy"

    # --- Counterattacks -----------------------------------------------------------------------

    def _measure(self, attack: Counterattack, bench: Bench, subject: Subject) -> dict[str, Any]:
        """By treatment, the answers after the attack; once for each removal network."""
        figures: dict[str, Any] = {}
        for held_out, (treatment, models) in self.treatments.items():
            made = bench.protected(subject, treatment)
            picture = eight_bits(bench, subject, made.stored)
            mask = np.zeros(picture.shape[:2], bool)
            mask[made.decision.mark.region] = made.decision.mark.logo[..., 3] > 0
            outcomes = (
                [attack.on(picture, remover=bench.remover(one)) for one in self.material.removers]
                if attack.needs == "remover"
                else [attack.on(picture, mask=mask)]
            )
            figures[held_out] = [
                bench.said(one.astype(np.float32) / np.float32(255), models) for one in outcomes
            ]
        return {"said": figures}

    def _answers(self, found: Sequence[tuple[Subject, dict[str, Any]]], seen: bool) -> Answers:
        return [
            answer
            for subject, figures in found
            for held_out, outcomes in figures["said"].items()
            if seen == (held_out == "")
            for said in outcomes
            for answer in answers_of(subject, said)
        ]

    # --- The adaptive attack ------------------------------------------------------------------

    def _adapted(self, bench: Bench) -> dict[str, Any]:
        """Each model with a fresh head that learned from protected pictures (or, to compare, from
        the originals), asked about pictures of other patients."""
        treatment, own = self.material.everyone(), bench.subjects
        able = [one for one in own if "refused" not in bench.quality(one, treatment)]
        figures: dict[str, Any] = {}
        for kind in ("protected", "clean"):
            pictures = [
                eight_bits(
                    bench, one,
                    bench.protected(one, treatment).stored if kind == "protected"
                    else bench.original(one),
                )
                for one in able
            ]  # fmt: skip
            figures[kind] = [
                [able[place].digest, model, chances]
                for model in self.material.models
                for place, chances in self._learned(bench, model, able, pictures)
            ]
        return figures

    def _learned(
        self, bench: Bench, model: str, subjects: Sequence[Subject], pictures: Sequence[Picture]
    ) -> Iterator[tuple[int, list[float]]]:
        """The place of a picture and what the model says of it that learned from the other half;
        none of a class that is not there."""
        labels = np.array([one.references[model] for one in subjects], np.int64)
        fold = _halves([one.group for one in subjects], labels)
        surrogate = self.material.models[model]
        for part in range(FOLDS):
            known = [place for place, one in enumerate(fold) if one != part]
            taught = set(labels[known])
            asked = [
                place for place, one in enumerate(fold) if one == part and labels[place] in taught
            ]
            if not asked or len(taught) < 2:
                continue
            try:
                adapted = fine_tuned(
                    surrogate, bench.task, [pictures[one] for one in known], labels[known],
                    np.random.default_rng(bench.material.seed),
                )  # fmt: skip
            except ModelUnusable:
                return  # it names no features to learn from
            chances = adapted.probabilities([pictures[one] for one in asked])
            for place, said in zip(asked, chances, strict=True):
                yield place, [float(one) for one in said]

    def _after_training(self, bench: Bench, kind: str) -> Answers:
        by_digest = {one.digest: one for one in bench.subjects}
        found = self.of_whole(bench, self._adaptive)
        return [Answer(by_digest[digest], model, chances) for digest, model, chances in found[kind]]

    # --- What was found -----------------------------------------------------------------------

    def section(self, bench: Bench) -> Section:
        tally = Tally(bench.material.seed)
        seen: dict[str, Any] = {}
        unseen: dict[str, Any] = {}
        for name, cell in self._cells.items():
            found = list(self.of(bench, cell))
            seen[name] = tally.accuracy(self._answers(found, True))
            unseen[name] = tally.accuracy(self._answers(found, False))
        adapted = tally.accuracy(self._after_training(bench, "protected"))
        control = tally.accuracy(self._after_training(bench, "clean"))
        values: dict[str, Any] = {
            "robust.adaptive.accuracy": adapted, "robust.adaptive.clean.accuracy": control,
            "robust.worst.accuracy": _worst(seen), "robust.worst.unseen.accuracy": _worst(unseen),
        }  # fmt: skip
        values |= {f"robust.{name}.accuracy": one for name, one in seen.items()}
        values |= {f"robust.{name}.unseen.accuracy": one for name, one in unseen.items()}
        every = [one for one, _ in self.treatments.values()]
        quality = quality_table(
            "robust", bench, tally, {"all models": every[:1], "each family held out": every[1:]}
        )
        return Section(
            tables=(
                self._table(seen, unseen), self._training_table(bench, tally, adapted, control),
                quality,
            ),
            bars=(self._bars(seen, unseen),),
            values=present(values),
            headlines=_headlines(values),
            limits=(
                "Who trains a whole network on many protected pictures can do better than the "
                "fresh head that was tried here.",
                "Somebody who draws the logo's mask by hand and repaints it can undo a small one.",
            ),
        )  # fmt: skip

    def _table(self, seen: dict[str, Any], unseen: dict[str, Any]) -> Table:
        return Table(
            "robust", "robust", "Counterattacks",
            "Accuracy after somebody tried to undo the protection; before it, 1.00.",
            (
                Column("attack", "counterattack"),
                Column("seen", "accuracy, models that were attacked", "lower"),
                Column("unseen", "accuracy, the family left out", "lower"),
            ),
            tuple((one.title, seen[name], unseen[name]) for name, one in self.attacks.items()),
            "" if self.material.removers
            else "No removal network is installed: attacks that take one are not here.",
        )  # fmt: skip

    def _training_table(self, bench: Bench, tally: Tally, adapted: Any, control: Any) -> Table:
        found = {kind: self._after_training(bench, kind) for kind in ("protected", "clean")}
        rows: list[tuple[Any, ...]] = [("all", adapted, control)]
        rows += [
            (model, *(
                tally.accuracy([one for one in found[kind] if one.model == model])
                for kind in ("protected", "clean")
            ))
            for model in self.material.models
        ]  # fmt: skip
        return Table(
            "robust-adaptive", "robust", "An infringer who trains on protected pictures",
            "A fresh last layer learns from half of the patients' pictures, protected and with "
            "their labels, and is asked about the other half, as far as it met their class.",
            (
                Column("model", "model"),
                Column("accuracy", "accuracy, protected", "lower"),
                Column("clean", "the same on originals"),
            ),
            tuple(rows),
            "The second column says how much can be learned from so few pictures at all.",
        )  # fmt: skip

    def _bars(self, seen: dict[str, Any], unseen: dict[str, Any]) -> Bars:
        both = {"models that were attacked": seen, "the family left out": unseen}
        groups = [
            (title, tuple(Bar(name, one) for name, one in found.items()))
            for title, found in both.items()
            if any(one is not None for one in found.values())
        ]
        return Bars(
            "robust-bars", "robust", "Accuracy after counterattacks", "", tuple(groups)
            or (("", (Bar("nothing", None),)),), "accuracy", better="lower",
        )  # fmt: skip


def eight_bits(bench: Bench, subject: Subject, stored: Any) -> Picture:
    """Stored values of a frame as they are shown: (rows, columns, 1 or 3) uint8."""
    shown: Picture = np.rint(bench.shown(subject, stored) * 255).astype(np.uint8)
    return shown


def _halves(groups: Sequence[str], labels: NDArray[np.int64]) -> list[int]:
    """The half of each picture: those of a group (a patient) stay together, and the groups of a
    class take turns, so that both halves know it where it has two."""
    half: dict[str, int] = {}
    met: Counter[int] = Counter()
    for group, label in zip(groups, labels.tolist(), strict=True):
        if group not in half:
            half[group] = met[label] % FOLDS
            met[label] += 1
    return [half[group] for group in groups]


def _worst(found: dict[str, Any]) -> Any:
    """What the best of the infringer's attempts leaves."""
    measured = [one for one in found.values() if one is not None]
    return max(measured, key=lambda one: one.value, default=None)


def _headlines(values: dict[str, Any]) -> tuple[Headline, ...]:
    found = values.get("robust.jpeg-75.accuracy")
    if found is None:
        return ()
    return (
        Headline(
            "Diagnoses left after JPEG 75", found,
            "Models that were attacked, after the protected picture was saved as JPEG.",
            None, "lower", as_share=True,
        ),
    )  # fmt: skip
