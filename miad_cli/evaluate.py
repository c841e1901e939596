"""Evaluate: how well the protection works, on the user's own pictures and models."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from miad_cli import __version__
from miad_cli.errors import ModelUnusable, NoUsableInput, UsageError
from miad_cli.evaluation.choosing import (
    chosen_protocols,
    known_classes,
    known_tasks,
    profile_for,
)
from miad_cli.evaluation.datasets import Dataset, Skipped
from miad_cli.evaluation.findings import (
    DataFacts,
    Figure,
    Findings,
    Headline,
    Meta,
    Summary,
)
from miad_cli.evaluation.gate import Gate, Violation, check_all
from miad_cli.evaluation.inputs import Labels, read_dataset
from miad_cli.evaluation.ledger import FILE, Key, Ledger, digest_of
from miad_cli.evaluation.pictures import samples_of
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.material import Setup, ask
from miad_cli.evaluation.protocols.protocol import Section, measure_all, passes, units
from miad_cli.evaluation.protocols.registry import PROTOCOLS
from miad_cli.evaluation.protocols.treatments import Store
from miad_cli.evaluation.provenance import libraries, model_facts, settings_facts
from miad_cli.evaluation.sharing import Helper, measure_shared
from miad_cli.models.session import choose_device
from miad_cli.profiles import Profile
from miad_cli.watermark.logo import load_logo

LIMIT = 12
"""Pictures where nothing else is asked for: by its own estimate 25 minutes on two cores with three
small models."""


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how.

    Attributes:
        given: a folder of pictures, a CSV manifest, or a DICOM study.
        protocols: names, or `all`; empty: the usual ones.
        labels: a table, or `folders` or `none`; None: as the data looks.
        profile: None: by the task, or by the pictures' attributes or classes.
        task: what the models are asked; None: the profile's.
        overrides: settings in place of the profile's, table by table.
        limit: how many pictures at most.
        work: where figures and marks are kept for a run that goes on; None: nowhere.
        baselines: whether `seen`, `unseen` and `removal` measure other ways to protect, the paper's
            own above all, beside what `miad protect` does.
        jobs: how many processes share the pictures; figures do not depend on it.
        command: the command line without any path, for the report.
    """

    given: Path
    logo: Path
    protocols: tuple[str, ...] = ()
    labels: Labels | None = None
    split: str = ""
    profile: Profile | None = None
    task: str | None = None
    overrides: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    limit: int = LIMIT
    work: Path | None = None
    seed: int = 2023
    device: str = "auto"
    baselines: bool = True
    jobs: int = 1
    gates: tuple[Gate, ...] = ()
    command: str = "miad evaluate DATASET"


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        pictures: how many at most; those that a model gets wrong drop out.
        units: of work, at most; `done` of them are kept from an earlier run.
        seconds: about how long, on this machine.
        left_out: protocols that cannot be measured here, and why.
        figures: the names of what `--fail-if` may ask for.
    """

    protocols: tuple[str, ...]
    pictures: int
    units: int
    done: int
    seconds: float
    left_out: tuple[tuple[str, str], ...]
    figures: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run.

    Attributes:
        skipped: files that were found and not evaluated.
        left_out: protocols that cannot be measured here, and why.
    """

    findings: Findings
    violations: tuple[Violation, ...]
    skipped: tuple[Skipped, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def failed(self) -> int:
        """Files that should have been evaluated and could not be."""
        return sum(one.failed for one in self.skipped)


def evaluate(request: Request, progress: Callable[[int], None] = lambda total: None) -> Outcome:
    """Measure what was asked for. `progress` is called after each unit of work with their number.

    Raises:
        UsageError: the request cannot be meant so; gates name figures that are not measured.
        NoUsableInput: there is no picture that could be evaluated.
        ModelUnusable: a model cannot be used, or no picture is classified right by all of them.
    """
    started = time.perf_counter()
    run = _Run(request)
    with run.bench() as bench:
        total = units(run.protocols, len(bench.subjects))
        run.measure(bench, lambda: progress(total))
        sections = {one.name: one.section(bench) for one in run.protocols}
        samples = samples_of(bench, run.classes)
        refused = sum(
            "refused" in bench.quality(one, run.material.everyone()) for one in bench.subjects
        )
        values = {name: one for each in sections.values() for name, one in each.values.items()}
        findings = Findings(
            meta=run.meta(bench, time.perf_counter() - started),
            summary=_summary(run, bench, sections, refused),
            tables=tuple(one for each in sections.values() for one in each.tables),
            curves=tuple(one for each in sections.values() for one in each.curves),
            bars=tuple(one for each in sections.values() for one in each.bars),
            samples=samples,
            values=values,
        )
    violations = check_all(request.gates, values)
    return Outcome(findings, tuple(violations), run.dataset.skipped, run.left_out)


def plan(request: Request) -> Plan:
    """What `evaluate` would do, and about how long it would take; nothing is written.

    Raises:
        As `evaluate` does.
    """
    run = _Run(request)
    pictures = min(request.limit, len(run.dataset.cases))
    work = passes(run.protocols, pictures)
    done = 0
    if request.work is not None and (request.work / FILE).is_file():
        with Ledger(request.work, run.digest) as ledger:
            done = len(ledger)
    return Plan(
        tuple(one.name for one in run.protocols),
        pictures,
        units(run.protocols, pictures),
        done,
        work * _seconds_a_pass(run) / min(request.jobs, pictures),
        run.left_out,
        tuple(name for one in run.protocols for name in one.figures),
    )


class _Run:
    """What a run is made of: data, profile, models and protocols; each made once."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.device = choose_device(request.device)
        own = load_logo(request.logo)
        if request.limit < 1:
            raise UsageError("a sample has at least one picture", hint="Give --limit 1 or more.")
        data = read_dataset(
            request.given, request.labels, split=request.split, known=known_classes()
        )
        self.profile = profile_for(data, request.profile, request.task, request.overrides)
        self.setup = Setup(self.profile, own, request.seed, self.device, request.baselines)
        self.material = self.setup.material()
        bank, wanted = self.material.bank, self.profile.models
        output = bank.surrogates[0].manifest.output_for(bank.task) if bank.task else None
        if output is None:
            raise ModelUnusable(
                f"no installed model answers the task {wanted.task or '(none)'} of the profile "
                f"{self.profile.name}, so nothing can be right or wrong",
                hint=f"Models answer {', '.join(known_tasks())}. Choose one with --task.",
            )
        self.classes = tuple(output.labels)
        self.dataset, self._found = data.for_task(self.classes), len(data.cases)
        self.protocols, self.left_out = chosen_protocols(request.protocols, self.material)
        self._check_gates()

    @property
    def digest(self) -> str:
        """Of everything that decides the figures but for the pictures."""
        return digest_of(
            {
                "version": __version__,
                "settings": repr(self.material.settings),
                "files": sorted(self.material.fingerprints.items()),
                "models": [*self.material.models],
                "removers": [*self.material.removers],
                "task": self.material.task,
                "seed": self.request.seed,
                "provider": self.device.provider,
                "attention": self.material.bank.attention.manifest.name,
            }
        )

    @contextmanager
    def bench(self) -> Iterator[Bench]:
        """The bench with its ledger open."""
        with ExitStack() as stack:
            folder = self.request.work
            if folder is None:
                made = tempfile.TemporaryDirectory(prefix="miad-")
                folder = Path(stack.enter_context(made))
            ledger = stack.enter_context(Ledger(folder, self.digest))
            subjects, self.dataset = self._subjects(ledger)
            yield Bench(self.material, subjects, Store(folder), ledger)

    def measure(self, bench: Bench, progress: Callable[[], None]) -> None:
        """Measure whatever is not known yet, with one process or several."""
        if self.request.jobs > 1:
            names = tuple(one.name for one in self.protocols)
            helper = Helper(self.setup, bench.subjects, names, bench.store.folder, self.digest)
            measure_shared(helper, self.protocols, bench, self.request.jobs, progress)
        else:
            measure_all(self.protocols, bench, progress)

    def _subjects(self, ledger: Ledger) -> tuple[list[Subject], Dataset]:
        """The pictures that take part: those that every model classifies right, or, where no
        labels were given, any; more are drawn until there are enough."""
        wanted, whole, seed = self.request.limit, self.dataset, self.request.seed
        asked = wanted
        while True:
            drawn = whole.limited(asked, seed)
            subjects: list[Subject] = []
            for case in drawn.cases:
                found = self._subject(case, len(subjects) + 1, ledger)
                if found is not None and len(subjects) < wanted:
                    subjects.append(found)
            if len(subjects) >= wanted or len(drawn.cases) < asked:
                break
            asked *= 2
        if not subjects:
            raise NoUsableInput(
                f"none of {len(drawn.cases)} pictures is classified right by every model, and only "
                "such pictures can show what protection does",
                hint="Check the task and the labels, or choose models with --models.",
            )
        return subjects, drawn

    def _subject(self, case: Any, number: int, ledger: Ledger) -> Subject | None:
        digest = case.digest()
        key = Key("clean", "all", digest)
        known = ledger.known(key)
        if known is None:
            image = case.load()
            said = ask(self.material, image.windowed(image.stored[image.key_frame]))
            known = {"said": said}
            ledger.add(key, known)
        said = known["said"]
        guesses = {name: chances.index(max(chances)) for name, chances in said.items()}
        if case.label is None:
            return Subject(case, number, digest, guesses, None)
        if any(guess != case.label for guess in guesses.values()):
            return None
        return Subject(case, number, digest, dict.fromkeys(guesses, case.label), case.label)

    def _check_gates(self) -> None:
        measured = [name for one in self.protocols for name in one.figures]
        running = {one.name for one in self.protocols}
        others = [
            name
            for protocol, kind in PROTOCOLS.items()
            if protocol not in running and not kind.obstacle(self.material)
            for name in kind(self.material).figures
        ]
        for gate in self.request.gates:
            gate.require(measured, others)

    def meta(self, bench: Bench, seconds: float) -> Meta:
        counts: dict[str, int] = {}
        for subject in bench.subjects:
            guesses = list(subject.references.values())
            label = max(set(guesses), key=guesses.count)
            counts[self.classes[label]] = counts.get(self.classes[label], 0) + 1
        given = self.dataset.labelled_by == "given"
        return Meta(
            version=__version__,
            created=datetime.now(UTC),
            seed=self.request.seed,
            command=self.request.command,
            data=DataFacts(
                self._name,
                self._found,
                len(bench.subjects),
                tuple((name, counts.get(name, 0)) for name in self.classes),
                "given" if given else "predictions",
            ),
            provider=self.device.provider,
            device="CPU" if self.device.provider.startswith("CPU") else f"GPU {self.device.index}",
            profile=self.profile.name,
            profile_digest=self.profile.digest,
            models=tuple(model_facts(self.material, self.left_out)),
            libraries=libraries(),
            settings=settings_facts(self.profile, self.request.limit, self.request.split),
            seconds=seconds,
        )

    @property
    def _name(self) -> str:
        """What the data is called in the report."""
        split = f", {self.request.split} split" if self.request.split else ""
        return f"{self.profile.title} ({self.dataset.name}{split})"


def _summary(run: _Run, bench: Bench, sections: Mapping[str, Section], refused: int) -> Summary:
    given = run.dataset.labelled_by == "given"
    sentences = []
    if given:
        sentences.append(
            f"Only pictures that all {len(run.material.models)} models classify right take part, "
            "so every accuracy was 1.00 before."
        )
    sentences = [*_found(sections), *sentences]
    sentences += [one for each in sections.values() for one in each.sentences]
    if refused:
        sentences.append(
            f"{refused} of {len(bench.subjects)} pictures could not be protected (no room for the "
            "logo, or nothing of it would show) and are left out of the figures."
        )
    sentences += [f"The protocol {name} was left out: {why}." for name, why in run.left_out]
    sentences += run.dataset.notes
    headlines: list[Headline] = [one for each in sections.values() for one in each.headlines]
    limits = dict.fromkeys(one for each in sections.values() for one in each.limits)
    return Summary(tuple(sentences), tuple(headlines), tuple(limits))


def _found(sections: Mapping[str, Section]) -> Iterator[str]:
    """The main figures in words."""
    values = {name: one for each in sections.values() for name, one in each.values.items()}
    said = {
        "seen.accuracy": "On models that were attacked one by one",
        "unseen.accuracy": "On models that had no part in the search",
        "removal.accuracy": "After a removal network worked on the protected picture",
    }
    for name, where in said.items():
        found: Figure | None = values.get(name)
        if found is not None and not isinstance(found, int | float):
            yield f"{where}, {100 * found.value:.0f} of 100 diagnoses still stand."


def _seconds_a_pass(run: _Run) -> float:
    """About how long a model looks at a picture here, all that goes with it included."""
    image = run.dataset.limited(1, run.request.seed).cases[0].load()
    windowed = image.windowed(image.stored[image.key_frame])
    ask(run.material, windowed)  # engines are made and warmed up
    times = []
    for _ in range(3):
        started = time.perf_counter()
        ask(run.material, windowed)
        times.append(time.perf_counter() - started)
    return sorted(times)[1] / len(run.material.models)
