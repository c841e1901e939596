"""Protect a study: every picture gets its mark, its seal and its proof, or is named as failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from miad_cli.files import InputFile
from miad_cli.outcomes import Outcome, Report
from miad_cli.protection.division import Division
from miad_cli.protection.preparation import prepare
from miad_cli.protection.request import Request
from miad_cli.protection.run import Run
from miad_cli.seal.places import job_identity_path


def protect(request: Request, progress: Callable[[Outcome, int], None] | None = None) -> Report:
    """Protect everything below the inputs. The source is never touched.

    `progress` is called after each file, with its outcome and the number of files in all.

    Raises:
        MiadError: the run as a whole cannot be done; what concerns one picture is in its outcome.
    """
    prepared = prepare(request)
    run = Run(prepared)
    division = Division(run)
    outcomes: dict[InputFile, Outcome] = {}
    with closing(division.outcomes()) as found:
        for file, outcome in found:
            outcomes[file] = outcome
            if progress:
                progress(outcome, len(prepared.files))
    outcomes |= division.misled(outcomes)
    for file in run.companions.directories:  # made anew from what is in the output by now
        outcomes[file] = run.companions.directory(file, list(outcomes.values()))
    return _report(run, [outcomes[file] for file in prepared.files])


def _report(run: Run, outcomes: Sequence[Outcome]) -> Report:
    request, used = run.prepared.request, run.choices.used
    sealed = any(one.state == "protected" for one in outcomes)
    return Report(
        output=request.output,
        outcomes=tuple(outcomes),
        key=_key_of(request, outcomes),
        owner_key_id=run.choices.owner.public.key_id if sealed else "",
        provider=run.prepared.device.provider,
        banks=used.banks,
        profiles=used.profiles,
        seed=request.seed,
        require_fooled=request.require_fooled,
        masked=request.mask is not None,
    )


def _key_of(request: Request, outcomes: Iterable[Outcome]) -> Path | None:
    """The identity that was made for this output, where something in it is sealed to it."""
    there = any(one.state in ("protected", "copied", "skipped") for one in outcomes)
    if request.recipients or not there:
        return None
    key = request.key_out or job_identity_path(request.output)
    return key if key.exists() else None
