"""The files of a run, divided among processes; what comes out is what one process makes.

Decisions follow from the seed, so each process can make those that references ask for; but not
every GPU computes the same twice, so what was foretold is compared with what was written.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property

from miad_cli.decisions import shares_a_mark
from miad_cli.errors import MiadError, PictureFailed
from miad_cli.files import InputFile, remove_abandoned_parts
from miad_cli.outcomes import Outcome
from miad_cli.protection.choices import Used
from miad_cli.protection.earlier import remove_ours
from miad_cli.protection.preparation import Prepared
from miad_cli.protection.run import Run
from miad_cli.seal.owner import OwnerKey
from miad_cli.study import read_header
from miad_cli.workers import Lost, in_processes


class Division:
    """Who does what of a run: this process all of it, or helpers some units each."""

    def __init__(self, run: Run) -> None:
        self._run, self._prepared = run, run.prepared
        self._foretold: dict[InputFile, dict[InputFile, str]] = {}

    def outcomes(self) -> Generator[tuple[InputFile, Outcome], None, None]:
        """What becomes of every file, group by group."""
        files, wanted = self._files, self._prepared.request.jobs
        units = self._units() if wanted > 1 else []
        jobs = min(wanted, len(units))
        if jobs > 1 and any(self._run.seals(file) for file in files):
            yield from self._of_helpers(units, jobs)
        else:
            for file in files:
                yield file, self._run.outcome_of(file)

    def misled(self, outcomes: Mapping[InputFile, Outcome]) -> dict[InputFile, Outcome]:
        """Files that refer to an instance which another process then made otherwise."""
        wanted = {file for foretold in self._foretold.values() for file in foretold}
        output = self._prepared.request.output
        actual = {
            file: read_header(output / there).sop_uid
            for file in wanted
            if (there := outcomes[file].output) is not None
        }
        found: dict[InputFile, Outcome] = {}
        for file, foretold in self._foretold.items():
            wrong = any(actual.get(one, uid) != uid for one, uid in foretold.items())
            if wrong and outcomes[file].output is not None:
                remove_ours(self._prepared.place_of(file))
                found[file] = Outcome(
                    file.relative,
                    "failed",
                    "an instance that it refers to came out differently in another process",
                    "Use --jobs 1 --on-exists replace.",
                    PictureFailed.exit_code,
                )
        return found

    @property
    def _files(self) -> list[InputFile]:
        return [file for group in self._prepared.study.groups for file in group.files]

    def _units(self) -> list[int]:
        """How many files in a row go to the same process: a group whose mark is shared, because
        it is decided once, by whoever does the first of them; else each file by itself."""
        possible = self._run.choices.possible_profiles()
        units: list[int] = []
        for group in self._prepared.study.groups:
            together = any(shares_a_mark(group, profile) for profile in possible)
            units += [len(group.files)] if together else [1] * len(group.files)
        return units

    def _of_helpers(
        self, units: Sequence[int], jobs: int
    ) -> Generator[tuple[InputFile, Outcome], None, None]:
        files, stays = self._files, self._prepared.request.on_exists == "skip"
        there = {file for file in files if stays and self._prepared.place_of(file).exists()}
        threads = self._prepared.device.threads
        try:
            results = in_processes(self._helper(), files, jobs, __name__, units, threads)
            with closing(results):
                for file, done in zip(files, results, strict=True):
                    if isinstance(done, Lost):
                        yield file, self._lost(file, file in there)
                    else:
                        yield file, self._learned(file, done)
        finally:
            remove_abandoned_parts(self._prepared.request.output)  # of processes that were killed

    def _helper(self) -> Helper:
        """What a further process does; all that has to be made or asked for is there before."""
        choices = self._run.choices
        request = replace(
            self._prepared.request,
            owner=None,
            owner_passphrase=None,
            recipients=choices.recipients,
        )
        return Helper(replace(self._prepared, request=request), choices.owner.raw)

    def _learned(self, file: InputFile, done: Done) -> Outcome:
        """Take over what another process found out."""
        self._run.choices.used.add(done.used)
        if done.foretold:
            self._foretold[file] = done.foretold
        if done.is_directory:
            self._run.companions.directories.append(file)
        return done.outcome

    def _lost(self, file: InputFile, was_there: bool) -> Outcome:
        """What becomes of a file that processes died over, whatever they had written of it."""
        if not was_there:
            remove_ours(self._prepared.place_of(file))
        return Outcome(
            file.relative,
            "failed",
            "the process died over it",
            "Is there enough memory for so many processes? Try fewer --jobs.",
            MiadError.exit_code,
        )


@dataclass(frozen=True)
class Done:
    """What another process says of a file.

    Attributes:
        used, foretold: what was chosen, and which UIDs were asked for, on the way.
        is_directory: it is a DICOMDIR, to be made anew.
    """

    outcome: Outcome
    used: Used
    foretold: dict[InputFile, str]
    is_directory: bool


@dataclass(frozen=True)
class Helper:
    """Protects one file after the other in a process of its own.

    It is handed over through a pipe, with the signing key in it: `owner` is its 32 bytes.
    """

    prepared: Prepared
    owner: bytes = field(repr=False)

    @cached_property
    def _run(self) -> Run:
        owner = OwnerKey.from_raw(self.owner)
        request = replace(self.prepared.request, owner=owner)
        return Run(replace(self.prepared, request=request))

    def __call__(self, file: InputFile) -> Done:
        run = self._run
        run.choices.used, run.references.foretold = Used(), {}
        run.companions.directories.clear()
        outcome = run.outcome_of(file)
        is_directory = bool(run.companions.directories)
        return Done(outcome, run.choices.used, run.references.foretold, is_directory)
