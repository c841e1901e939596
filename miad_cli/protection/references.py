"""What stands in the output for the UIDs of other instances and series."""

from __future__ import annotations

from miad_cli.decisions import Decisions
from miad_cli.errors import MaskUnusable, OutputExists, PictureFailed
from miad_cli.files import InputFile, read_file
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.picture import read_picture
from miad_cli.instance import new_sop_uid
from miad_cli.protection.choices import Choices
from miad_cli.protection.earlier import Earlier, is_protected
from miad_cli.protection.preparation import Prepared
from miad_cli.protection.reading import picture_in


class References:
    """Foretells the UIDs of a run; an instance that is referred to is decided before its turn.

    Attributes:
        foretold: the UIDs that were asked for, by the instance that will have them, or has.
    """

    def __init__(
        self, prepared: Prepared, choices: Choices, earlier: Earlier, decisions: Decisions
    ) -> None:
        self._prepared, self._choices = prepared, choices
        self._earlier, self._decisions = earlier, decisions
        self._new_uids: dict[InputFile, str] = {}
        self.foretold: dict[InputFile, str] = {}

    def new_uid(self, original: str) -> str:
        """What stands in the output for the UID of another instance or series: its new UID where
        it is protected in the same run, else one that leads nowhere."""
        study = self._prepared.study
        file = study.by_sop_uid.get(original)
        if file is not None:
            if file not in self._new_uids:
                self._new_uids[file] = self._new_uid_of(file, original)
            self.foretold[file] = self._new_uids[file]
            return self._new_uids[file]
        file = study.series.get(original)
        picture = None if file is None else picture_in(file, self._choices.largest)
        if picture is None:
            return self._dangling(original)
        return self._choices.sealing_for(picture).new_series_uid(original)

    def _new_uid_of(self, file: InputFile, original: str) -> str:
        """The new SOP Instance UID of an instance whose turn may not have come yet."""
        picture = picture_in(file, self._choices.largest)
        if not isinstance(picture, DicomPicture) or is_protected(picture, file.path):
            return self._dangling(original)
        try:
            if self._earlier.keeps(file, picture):
                target = self._prepared.place_of(file)
                kept = read_picture(read_file(target), target)
                return str(kept.dataset.SOPInstanceUID)  # type: ignore[union-attr]
            profile = self._choices.profile_for(picture)
            bank = self._choices.bank_for(profile)
            group = self._prepared.group_of[file]
            marking = self._decisions.marking(file, picture, group, profile, bank)
        except (PictureFailed, OutputExists, MaskUnusable):
            return self._dangling(original)  # said when its turn comes
        self._decisions.remember(file, marking)
        return new_sop_uid(picture, marking.stored, self._choices.sealing(profile, bank))

    def _dangling(self, original: str) -> str:
        return self._choices.owner.derive_uid("reference", original.encode())
