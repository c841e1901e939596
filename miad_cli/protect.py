"""Protect a study: every picture gets its mark, its seal and its proof, or is named as failed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from miad_cli.companions import Companions
from miad_cli.decisions import Anywhere, Avoid, Decisions, shares_a_mark
from miad_cli.errors import (
    MaskUnusable,
    MiadError,
    OutputExists,
    PictureFailed,
    UsageError,
)
from miad_cli.files import (
    LINK,
    InputFile,
    check_output,
    collect_inputs,
    plan_outputs,
    read_file,
    remove_abandoned_parts,
)
from miad_cli.imaging.derivation import CREATOR_UID
from miad_cli.imaging.dicom import A_DICOMDIR, DicomPicture, NoPicture
from miad_cli.imaging.masks import read_masks
from miad_cli.imaging.picture import Picture, container_in, container_in_file, read_picture
from miad_cli.instance import Sealing, job_of, new_sop_uid, write_instance
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device, choose_device
from miad_cli.outcomes import Outcome, Protection, Report
from miad_cli.profiles import GENERAL, Profile, fitting_profile, shipped_profiles, with_overrides
from miad_cli.seal.carriers import SIDECAR_SUFFIX, is_sidecar, sidecar_of
from miad_cli.seal.identities import Recipient, parse_recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.places import default_owner, job_identity, job_identity_path
from miad_cli.study import Group, Study, read_header, survey
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.logo import Bytes, load_logo
from miad_cli.watermark.marking import Marking
from miad_cli.workers import Lost, in_processes

OnExists = Literal["fail", "skip", "replace", "resume"]


@dataclass(frozen=True)
class Request:
    """What to protect, with what, and for whom.

    `profile` None chooses one for each picture by its attributes. `overrides` replace settings
    of whatever profile is chosen, table by table. `mask` is a file or a folder of lesion masks;
    without it the models' attention says what the logo keeps off, with `anywhere` nothing does.
    `copy_others` takes objects without a picture along, under new UIDs.
    Without `recipients` an identity is made for this output folder, in the user's data directory
    or at `key_out`. Without `owner` this user's own key signs; `owner_passphrase` is called if
    that one lies under a passphrase. `jobs` is how many processes share the work and the
    cores. What comes out is the same, to the bit.
    """

    inputs: tuple[Path, ...]
    logo: Path
    output: Path
    profile: Profile | None = None
    mask: Path | None = None
    anywhere: bool = False
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipients: tuple[Recipient, ...] = ()
    key_out: Path | None = None
    owner: OwnerKey | None = None
    owner_passphrase: Callable[[], bytes] | None = None
    device: str = "auto"
    seed: int = 2023
    on_exists: OnExists = "fail"
    require_fooled: bool = False
    copy_others: bool = False
    dry_run: bool = False
    jobs: int = 1


def protect(request: Request, progress: Callable[[Outcome, int], None] | None = None) -> Report:
    """Protect everything below the inputs. The source is never touched.

    `progress` is called after each file, with its outcome and the number of files in all.

    Raises:
        MiadError: the run as a whole cannot be done; what concerns one picture is in its outcome.
    """
    _check(request)
    files = collect_inputs(request.inputs)
    logo, device = load_logo(request.logo), choose_device(request.device)
    check_output(request.inputs, request.output, may_exist=request.on_exists != "fail")
    remove_abandoned_parts(request.output)
    study, names = survey(files), plan_outputs(files)
    avoid = _what_to_avoid(request, study, names)
    run = _Run(_Common(request, logo, device, study, names, avoid))
    outcomes: dict[InputFile, Outcome] = {}
    with closing(_outcomes(run)) as found:
        for file, outcome in found:
            outcomes[file] = outcome
            if progress:
                progress(outcome, len(files))
    outcomes |= run.misled(outcomes)
    for file in run.companions.directories:  # made anew from what is in the output by now
        outcomes[file] = run.companions.directory(file, list(outcomes.values()))
    return run.report([outcomes[file] for file in files])


def _check(request: Request) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: the key would lie in the output or be of no use, or the target could not be
            judged.
    """
    if request.key_out is not None:
        if request.recipients:
            raise UsageError(
                "--key-out makes a key, --to names the keys there are", hint="Use one of them."
            )
        if request.output.resolve() in request.key_out.resolve().parents:
            raise UsageError(
                f"{request.key_out}: the key would lie in the output, which is what is passed on",
                hint="Name a file elsewhere.",
            )
    if request.require_fooled and request.on_exists in ("skip", "resume"):
        raise UsageError(
            "nothing is known of how well files that are kept were protected",
            hint="Use --require-fooled without --resume and --on-exists skip.",
        )


@dataclass(frozen=True)
class _Common:
    """What was read and chosen before the first picture, once for all processes of a run.

    `avoid` is what the logo keeps off, and the bytes that a resumed run knows it by.
    """

    request: Request
    logo: Bytes = field(repr=False)
    device: Device
    study: Study = field(repr=False)
    names: Mapping[PurePosixPath, PurePosixPath] = field(repr=False)
    avoid: tuple[Avoid, tuple[bytes, ...]] = field(repr=False)


@dataclass
class _Notes:
    """What is known beyond the outcomes once files are done.

    Attributes:
        banks, profiles: those that were used, in the order of their first use, for the report.
        foretold: the UIDs that files refer to, by the instance that will have them, or has.
    """

    banks: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    foretold: dict[InputFile, str] = field(default_factory=dict)


class _Run:
    """What the pictures of one run share: logo, profiles, models, keys; each made once."""

    def __init__(self, common: _Common) -> None:
        self.common = common
        request, logo, study = common.request, common.logo, common.study
        self.request, self.study = request, study
        self.device, self.names = common.device, common.names
        self.notes = _Notes()
        self._shipped = shipped_profiles()
        # A profile that is chosen by attributes cannot be asked before the file is read.
        limits = (request.profile or self._shipped[GENERAL]).limits
        self._largest = limits.decoded_mib << 20
        self._profiles: dict[str, Profile] = {}
        self._banks: dict[str, Bank] = {}
        self._logo_digest = hashlib.sha256(repr(logo.shape).encode() + logo.tobytes()).digest()
        self.group_of = {file: group for group in study.groups for file in group.files}
        self._new_uids: dict[InputFile, str] = {}
        self._foretold: dict[InputFile, dict[InputFile, str]] = {}
        self.companions = Companions(
            output=request.output,
            names=common.names,
            copy=request.copy_others,
            on_exists=request.on_exists,
            dry_run=request.dry_run,
            originals=frozenset((*study.by_sop_uid, *study.series)),
            new_uid=self._new_uid_for,
            sealing=self._companion_sealing,
        )
        avoid, self._mask_parts = common.avoid
        self._decisions = Decisions(logo, request.seed, avoid, self._picture_in)

    @cached_property
    def owner(self) -> OwnerKey:
        return self.request.owner or default_owner(self.request.owner_passphrase)

    @cached_property
    def recipients(self) -> tuple[Recipient, ...]:
        """Those named, or the identity of this output folder, made when first needed."""
        if self.request.recipients:
            return self.request.recipients
        _, recipient = job_identity(self.request.output, self.request.key_out)
        return (parse_recipient(recipient),)

    def seals(self, file: InputFile) -> bool:
        """Whether the keys will be needed for this file, as far as a look into it tells."""
        if is_sidecar(file.path) or self.request.dry_run:
            return False
        picture = None if file.obstacle == LINK else self._found_in(file)
        if picture is None:
            return False
        on_exists = self.request.on_exists
        there = (self.request.output / self.names[file.relative]).exists()
        if there and on_exists in ("skip", "resume"):
            return on_exists == "resume"
        if isinstance(picture, NoPicture):
            return self.request.copy_others and picture.reason != A_DICOMDIR
        return not _is_protected(picture, file.path)

    def outcome_of(self, file: InputFile, group: Group) -> Outcome:
        """Protect one file; whatever goes wrong with it alone becomes its outcome.

        What an earlier run left of a file that is not in the output now is taken away: nobody
        asked for it any more, and it would be passed on.
        """
        outcome = self._outcome_or_failure(file, group)
        again = self.request.on_exists in ("replace", "resume") and not self.request.dry_run
        if again and outcome.state in ("failed", "passed over"):
            _remove_ours(self.request.output / self.names[file.relative])
        return outcome

    def _outcome_or_failure(self, file: InputFile, group: Group) -> Outcome:
        try:
            return self._outcome_of(file, group)
        except _Unreadable as error:
            return Outcome(
                file.relative, "failed", error.message, error.hint, error.exit_code, False
            )
        except (PictureFailed, OutputExists, MaskUnusable) as error:
            return Outcome(file.relative, "failed", error.message, error.hint, error.exit_code)
        except OSError as error:
            return Outcome(
                file.relative,
                "failed",
                f"cannot be written ({error.strerror})",
                exit_code=PictureFailed.exit_code,
            )
        except MiadError:
            raise
        except Exception as error:  # one picture that meets a bug of ours must not stop the others
            return Outcome(
                file.relative,
                "failed",
                f"internal error ({type(error).__name__})",
                "Please report it, with the file's transfer syntax.",
                MiadError.exit_code,
            )

    def _outcome_of(self, file: InputFile, group: Group) -> Outcome:
        name, output = file.relative, self.names[file.relative]
        if is_sidecar(file.path):
            return Outcome(name, "left out", "a sidecar of miad", is_picture=False)
        if file.obstacle == LINK:
            return Outcome(name, "left out", LINK, is_picture=False)
        picture = _read(file, self._largest)
        if picture is None:
            return Outcome(name, "left out", "not an image", is_picture=False)
        if isinstance(picture, NoPicture):
            return self.companions.other(file, picture.reason)
        if self._keeps(self.request.output / output, file, picture):
            return Outcome(name, "skipped", "there already", output=output)
        if _is_protected(picture, file.path):
            raise PictureFailed(
                "is protected already", hint="Unlock it first, or leave it out of the input."
            )
        if self.request.dry_run:
            self._decisions.check(file, picture)
            reason = f"with the profile {self._profile_for(picture).name}"
            return Outcome(name, "planned", reason, output=output)
        protection = self._protect(file, picture, group)
        return Outcome(name, "protected", output=output, protection=protection)

    def _keeps(self, target: Path, file: InputFile, picture: Picture) -> bool:
        """True where what is in the output already stays.

        A run that is resumed keeps what is authentic and was made of this very original in this
        very way; of the rest it replaces only what carries a container.
        """
        if not target.exists() or self.request.on_exists in ("fail", "replace"):
            return False
        if self.request.on_exists == "skip":
            return True
        seen = verify_file(target, [self.owner.public])
        foreign = seen.verdict is Verdict.NOT_PROTECTED
        foreign = foreign or (seen.verdict in _NO_PICTURE and not sidecar_of(target).exists())
        if foreign:
            raise OutputExists(
                "another file, which miad did not write, has its place in the output",
                hint="Move it away, or name another folder with -o.",
            )
        if seen.verdict is not Verdict.AUTHENTIC:
            return False
        original = hashlib.sha256(picture.content).hexdigest()
        return job_of(self._sealing_for(picture, self.group_of[file]), original) == seen.job

    def _protect(self, file: InputFile, picture: Picture, group: Group) -> Protection:
        started = time.perf_counter()
        profile = self._profile_for(picture)
        bank = self._bank_for(profile)
        marking = self._decisions.marking(file, picture, group, profile, bank)
        written = write_instance(
            self.request.output / self.names[file.relative],
            file.path.name,
            picture,
            marking,
            self._sealing(profile, bank, group),
            self._new_uid_for,
            self.companions.originals,
        )
        return _protection(picture, profile, bank, marking, written, time.perf_counter() - started)

    def _new_uid_for(self, original: str) -> str:
        """What stands in the output for the UID of another instance or series: its new UID where
        it is protected in the same run, else one that leads nowhere."""
        file = self.study.by_sop_uid.get(original)
        if file is not None:
            if file not in self._new_uids:
                self._new_uids[file] = self._new_uid_of(file, original)
            self.notes.foretold[file] = self._new_uids[file]
            return self._new_uids[file]
        file = self.study.series.get(original)
        picture = None if file is None else self._picture_in(file)
        if picture is None:
            return self.owner.derive_uid("reference", original.encode())
        return self._sealing_for(picture).new_series_uid(original)

    def _new_uid_of(self, file: InputFile, original: str) -> str:
        """The new SOP Instance UID of an instance whose turn may not have come yet."""
        dangling = self.owner.derive_uid("reference", original.encode())
        picture = self._picture_in(file)
        if not isinstance(picture, DicomPicture) or _is_protected(picture, file.path):
            return dangling
        target = self.request.output / self.names[file.relative]
        try:
            if self._keeps(target, file, picture):
                kept = read_picture(read_file(target), target)
                return str(kept.dataset.SOPInstanceUID)  # type: ignore[union-attr]
            profile = self._profile_for(picture)
            bank = self._bank_for(profile)
            group = self.group_of[file]
            marking = self._decisions.marking(file, picture, group, profile, bank)
        except (PictureFailed, OutputExists, MaskUnusable):
            return dangling  # said when its turn comes
        self._decisions.remember(file, marking)
        return new_sop_uid(picture, marking.stored, self._sealing(profile, bank))

    def _picture_in(self, file: InputFile) -> Picture | None:
        found = self._found_in(file)
        return None if isinstance(found, NoPicture) else found

    def _found_in(self, file: InputFile) -> Picture | NoPicture | None:
        try:
            return _read(file, self._largest)
        except PictureFailed:
            return None

    def _profile_for(self, picture: Picture) -> Profile:
        chosen = self.request.profile or fitting_profile(self._shipped, picture.image.facts)
        if chosen.name not in self._profiles:
            self._profiles[chosen.name] = with_overrides(chosen, self.request.overrides)
        resolved = self._profiles[chosen.name]
        if chosen.name not in self.notes.profiles:
            self.notes.profiles[chosen.name] = _described(resolved)
        return resolved

    def _bank_for(self, profile: Profile) -> Bank:
        if profile.name not in self._banks:
            wanted = profile.models
            self._banks[profile.name] = load_bank(
                wanted.task,
                wanted.names,
                wanted.attention,
                self.device,
                profile.lesions.network,
            )
        bank = self._banks[profile.name]
        self.notes.banks.setdefault(profile.name, bank.digest)
        return bank

    def _sealing_for(self, picture: Picture, group: Group | None = None) -> Sealing:
        profile = self._profile_for(picture)
        return self._sealing(profile, self._bank_for(profile), group)

    def _sealing(self, profile: Profile, bank: Bank, group: Group | None = None) -> Sealing:
        # A mark that is shared is another one where the series is: it may have grown.
        shared = group is not None and shares_a_mark(group, profile)
        members = [str(file.relative) for file in group.files] if group and shared else []
        return Sealing(
            owner=self.owner,
            recipients=self.recipients,
            series_parts=(
                profile.digest.encode(),
                self._logo_digest,
                str(self.request.seed).encode(),
                *self._mask_parts,
            ),
            bank_digest=bank.digest,
            payload=profile.seal.payload,
            carrier=profile.seal.carrier,
            job_parts=("\n".join(sorted(members)).encode(),) if members else (),
        )

    def _companion_sealing(self) -> Sealing:
        """For what is no picture: no profile and no model had a part in it."""
        return Sealing(
            owner=self.owner,
            recipients=self.recipients,
            series_parts=(self._logo_digest, str(self.request.seed).encode()),
            bank_digest="",
            payload="original",
            carrier="sidecar",
        )

    def report(self, outcomes: Sequence[Outcome]) -> Report:
        sealed = any(one.state == "protected" for one in outcomes)
        return Report(
            output=self.request.output,
            outcomes=tuple(outcomes),
            key=self._key_of(outcomes),
            owner_key_id=self.owner.public.key_id if sealed else "",
            provider=self.device.provider,
            banks=self.notes.banks,
            profiles=self.notes.profiles,
            seed=self.request.seed,
            require_fooled=self.request.require_fooled,
            masked=self.request.mask is not None,
        )

    def _key_of(self, outcomes: Iterable[Outcome]) -> Path | None:
        """The identity that was made for this output, where something in it is sealed to it."""
        there = any(one.state in ("protected", "copied", "skipped") for one in outcomes)
        if self.request.recipients or not there:
            return None
        key = self.request.key_out or job_identity_path(self.request.output)
        return key if key.exists() else None

    # --- Further processes

    def units(self) -> list[int]:
        """How many files in a row go to the same process: a group whose mark is shared, because
        it is decided once, by whoever does the first of them; else each file by itself."""
        chosen = self.request.profile
        possible = [chosen] if chosen else list(self._shipped.values())
        resolved = [with_overrides(one, self.request.overrides) for one in possible]
        units: list[int] = []
        for group in self.study.groups:
            together = any(shares_a_mark(group, profile) for profile in resolved)
            units += [len(group.files)] if together else [1] * len(group.files)
        return units

    def helper(self) -> _Helper:
        """What a further process does; all that has to be made or asked for is there before."""
        request = replace(
            self.request, owner=None, owner_passphrase=None, recipients=self.recipients
        )
        return _Helper(replace(self.common, request=request), self.owner.raw)

    def learn(self, file: InputFile, done: _Done) -> Outcome:
        """Take over what another process found out."""
        self.notes.banks |= done.notes.banks
        self.notes.profiles |= done.notes.profiles
        if done.notes.foretold:
            self._foretold[file] = done.notes.foretold
        if done.is_directory:
            self.companions.directories.append(file)
        return done.outcome

    def lost(self, file: InputFile, was_there: bool) -> Outcome:
        """What becomes of a file that processes died over, whatever they had written of it."""
        if not was_there:
            _remove_ours(self.request.output / self.names[file.relative])
        return Outcome(
            file.relative,
            "failed",
            "the process died over it",
            "Is there enough memory for so many processes? Try fewer --jobs.",
            MiadError.exit_code,
        )

    def misled(self, outcomes: Mapping[InputFile, Outcome]) -> dict[InputFile, Outcome]:
        """Files that refer to an instance which another process then made otherwise.

        Decisions follow from the seed, so each process can make those that references ask for;
        but not every GPU computes the same twice.
        """
        wanted = {file for foretold in self._foretold.values() for file in foretold}
        actual = {
            file: read_header(self.request.output / there).sop_uid
            for file in wanted
            if (there := outcomes[file].output) is not None
        }
        found: dict[InputFile, Outcome] = {}
        for file, foretold in self._foretold.items():
            wrong = any(actual.get(one, uid) != uid for one, uid in foretold.items())
            if wrong and outcomes[file].output is not None:
                _remove_ours(self.request.output / self.names[file.relative])
                found[file] = Outcome(
                    file.relative,
                    "failed",
                    "an instance that it refers to came out differently in another process",
                    "Use --jobs 1 --on-exists replace.",
                    PictureFailed.exit_code,
                )
        return found


def _outcomes(run: _Run) -> Generator[tuple[InputFile, Outcome], None, None]:
    """What becomes of every file, group by group, with one process or several."""
    groups, wanted = run.study.groups, run.request.jobs
    units = run.units() if wanted > 1 else []
    jobs = min(wanted, len(units))
    if jobs > 1 and any(run.seals(file) for group in groups for file in group.files):
        yield from _shared_outcomes(run, units, jobs)
        return
    for group in groups:
        for file in group.files:
            yield file, run.outcome_of(file, group)


def _shared_outcomes(
    run: _Run, units: Sequence[int], jobs: int
) -> Generator[tuple[InputFile, Outcome], None, None]:
    files = [file for group in run.study.groups for file in group.files]
    output, names = run.request.output, run.names
    stays = run.request.on_exists == "skip"
    there = {file for file in files if stays and (output / names[file.relative]).exists()}
    work, threads = run.helper(), run.device.threads
    try:
        with closing(in_processes(work, files, jobs, __name__, units, threads)) as results:
            for file, done in zip(files, results, strict=True):
                if isinstance(done, Lost):
                    yield file, run.lost(file, file in there)
                else:
                    yield file, run.learn(file, done)
    finally:
        remove_abandoned_parts(output)  # of processes that were killed


@dataclass(frozen=True)
class _Done:
    """What another process says of a file; `is_directory` where it is to be made anew."""

    outcome: Outcome
    notes: _Notes
    is_directory: bool


@dataclass(frozen=True)
class _Helper:
    """Protects one file after the other in a process of its own.

    It is handed over through a pipe, with the signing key in it: `owner` is its 32 bytes.
    """

    common: _Common
    owner: bytes = field(repr=False)

    @cached_property
    def _run(self) -> _Run:
        owner = OwnerKey.from_raw(self.owner)
        return _Run(replace(self.common, request=replace(self.common.request, owner=owner)))

    def __call__(self, file: InputFile) -> _Done:
        run = self._run
        run.notes = _Notes()
        run.companions.directories.clear()
        outcome = run.outcome_of(file, run.group_of[file])
        return _Done(outcome, run.notes, bool(run.companions.directories))


def _described(profile: Profile) -> dict[str, Any]:
    """The resolved profile for a report; models that were named by a path, by its end only."""
    facts = profile.model_dump(mode="json")
    facts["models"]["names"] = [Path(name).name for name in profile.models.names]
    for table, key in (("models", "attention"), ("lesions", "segmentation")):
        if facts[table][key] is not None:
            facts[table][key] = Path(facts[table][key]).name
    return {"sha256": profile.digest, **facts}


_NEVER_PICTURES = (SIDECAR_SUFFIX, ".txt", ".csv", ".json", ".xml", ".pdf", ".html", ".md")
"""Names of files that may lie beside a picture under the same name."""


def _what_to_avoid(
    request: Request, study: Study, names: Iterable[PurePosixPath]
) -> tuple[Avoid, tuple[bytes, ...]]:
    """What the logo keeps off, and the bytes that a resumed run knows it by."""
    if request.anywhere:
        return Anywhere(), (b"anywhere",)
    if request.mask is None:
        return None, ()
    masks = read_masks(request.mask)
    if masks.of_no_patient and len(study.frames_of_reference) > 1:
        raise MaskUnusable(
            f"{request.mask}: {masks.of_no_patient} masks say nothing of the patient they belong "
            "to, and the input holds several frames of reference",
            hint="Protect the series one by one, or give the mask as DICOM SEG.",
        )
    masks.check_names(name for name in names if name.suffix.lower() not in _NEVER_PICTURES)
    return masks, (masks.digest,)


_NO_PICTURE = (Verdict.UNREADABLE, Verdict.NO_PICTURE)


class _Unreadable(PictureFailed):
    """There may be a picture in the file, but nothing of it could be read."""


def _read(file: InputFile, largest: int) -> Picture | NoPicture | None:
    """What is in a file; `largest` is the most bytes of decoded pixels that it may have."""
    try:
        if file.obstacle:
            raise PictureFailed(file.obstacle)
        return read_picture(read_file(file.path), file.path, largest)
    except PictureFailed as error:
        raise _Unreadable(error.message, error.hint) from error


def _remove_ours(target: Path) -> None:
    """Delete what miad wrote there and its sidecar; nothing else."""
    try:
        ours = sidecar_of(target).exists() or (
            target.is_file() and container_in_file(read_file(target)) is not None
        )
    except PictureFailed:
        return
    if ours:
        target.unlink(missing_ok=True)
        sidecar_of(target).unlink(missing_ok=True)


def _is_protected(picture: Picture, path: Path) -> bool:
    """True where a container is in the file or beside it, or where the instance says it is ours
    although its container was stripped."""
    if container_in(picture) is not None or sidecar_of(path).exists():
        return True
    return (
        isinstance(picture, DicomPicture)
        and picture.dataset.get("InstanceCreatorUID") == CREATOR_UID
    )


def _protection(
    picture: Picture,
    profile: Profile,
    bank: Bank,
    marking: Marking,
    written: Any,
    seconds: float,
) -> Protection:
    decision = marking.decision
    height, width = marking.mark.logo.shape[:2]
    return Protection(
        profile=profile.name,
        task=bank.task,
        fooled=marking.fooled,
        models_fooled=marking.models_fooled,
        models=len(bank.surrogates),
        feature_distance=marking.feature_distance,
        queries=decision.queries,
        gradients=decision.gradients,
        largest_change=marking.largest_change,
        logo=(marking.mark.x, marking.mark.y, width, height),
        alpha=marking.mark.alpha,
        scale_divisor=decision.divisor,
        lesions=tuple((box.x, box.y, box.width, box.height) for box in decision.lesions.boxes),
        lesions_from=decision.lesions.source,
        shared=decision.shared,
        payload=written.payload,
        syntax=written.syntax,
        names_a_patient=_names_a_patient(picture),
        seconds=seconds,
    )


def _names_a_patient(picture: Picture) -> bool:
    return isinstance(picture, DicomPicture) and any(
        picture.dataset.get(keyword) for keyword in ("PatientName", "PatientID")
    )
