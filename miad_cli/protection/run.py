"""One run: what its files share, and what becomes of each of them."""

from __future__ import annotations

import time

from miad_cli.companions import Companions
from miad_cli.decisions import Decisions
from miad_cli.errors import MaskUnusable, MiadError, OutputExists, PictureFailed
from miad_cli.files import LINK, InputFile
from miad_cli.imaging.dicom import A_DICOMDIR, DicomPicture, NoPicture
from miad_cli.imaging.picture import Picture
from miad_cli.instance import WrittenInstance, write_instance
from miad_cli.models.bank import Bank
from miad_cli.outcomes import Outcome, Protection
from miad_cli.profiles import Profile
from miad_cli.protection.choices import Choices
from miad_cli.protection.earlier import Earlier, is_protected, remove_ours
from miad_cli.protection.preparation import Prepared
from miad_cli.protection.reading import Unreadable, found_in, picture_in, read_input
from miad_cli.protection.references import References
from miad_cli.seal.carriers import is_sidecar
from miad_cli.study import Group
from miad_cli.watermark.marking import Marking


class Run:
    """Protects one file after the other.

    Attributes:
        choices, references, companions: what the files have in common, made when it is needed.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self._request = prepared, prepared.request
        self.choices = Choices(prepared)
        avoid, _ = prepared.avoid
        self._decisions = Decisions(
            prepared.logo,
            self._request.seed,
            avoid,
            lambda file: picture_in(file, self.choices.largest),
        )
        self._earlier = Earlier(prepared, self.choices)
        self.references = References(prepared, self.choices, self._earlier, self._decisions)
        self.companions = Companions(
            output=self._request.output,
            names=prepared.names,
            copy=self._request.copy_others,
            on_exists=self._request.on_exists,
            dry_run=self._request.dry_run,
            originals=frozenset((*prepared.study.by_sop_uid, *prepared.study.series)),
            new_uid=self.references.new_uid,
            sealing=self.choices.companion_sealing,
        )

    def seals(self, file: InputFile) -> bool:
        """Whether the keys will be needed for this file, as far as a look into it tells."""
        if is_sidecar(file.path) or self._request.dry_run:
            return False
        found = None if file.obstacle == LINK else found_in(file, self.choices.largest)
        if found is None:
            return False
        on_exists = self._request.on_exists
        if on_exists in ("skip", "resume") and self.prepared.place_of(file).exists():
            return on_exists == "resume"
        if isinstance(found, NoPicture):
            return self._request.copy_others and found.reason != A_DICOMDIR
        return not is_protected(found, file.path)

    def outcome_of(self, file: InputFile) -> Outcome:
        """Protect one file; whatever goes wrong with it alone becomes its outcome.

        What an earlier run left of a file that is not in the output now is taken away: nobody
        asked for it any more, and it would be passed on.

        Raises:
            MiadError: the run as a whole cannot go on.
        """
        outcome = self._outcome_or_failure(file)
        again = self._request.on_exists in ("replace", "resume") and not self._request.dry_run
        if again and outcome.state in ("failed", "passed over"):
            remove_ours(self.prepared.place_of(file))
        return outcome

    def _outcome_or_failure(self, file: InputFile) -> Outcome:
        try:
            return self._outcome_of(file)
        except Unreadable as error:
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

    def _outcome_of(self, file: InputFile) -> Outcome:
        name, output = file.relative, self.prepared.names[file.relative]
        if is_sidecar(file.path):
            return Outcome(name, "left out", "a sidecar of miad", is_picture=False)
        if file.obstacle == LINK:
            return Outcome(name, "left out", LINK, is_picture=False)
        picture = read_input(file, self.choices.largest)
        if picture is None:
            return Outcome(name, "left out", "not an image", is_picture=False)
        if isinstance(picture, NoPicture):
            return self.companions.other(file, picture.reason)
        if self._earlier.keeps(file, picture):
            return Outcome(name, "skipped", "there already", output=output)
        if is_protected(picture, file.path):
            raise PictureFailed(
                "is protected already", hint="Unlock it first, or leave it out of the input."
            )
        if self._request.dry_run:
            self._decisions.check(file, picture)
            reason = f"with the profile {self.choices.profile_for(picture).name}"
            return Outcome(name, "planned", reason, output=output)
        protection = self._protect(file, picture, self.prepared.group_of[file])
        return Outcome(name, "protected", output=output, protection=protection)

    def _protect(self, file: InputFile, picture: Picture, group: Group) -> Protection:
        started = time.perf_counter()
        profile = self.choices.profile_for(picture)
        bank = self.choices.bank_for(profile)
        marking = self._decisions.marking(file, picture, group, profile, bank)
        written = write_instance(
            self.prepared.place_of(file),
            file.path.name,
            picture,
            marking,
            self.choices.sealing(profile, bank, group),
            self.references.new_uid,
            self.companions.originals,
        )
        return _protection(picture, profile, bank, marking, written, time.perf_counter() - started)


def _protection(
    picture: Picture,
    profile: Profile,
    bank: Bank,
    marking: Marking,
    written: WrittenInstance,
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
