"""What earlier runs left: protected pictures are not protected again, and in the output some of
them stay, some are replaced and some are taken away."""

from __future__ import annotations

import hashlib
from pathlib import Path

from miad_cli.errors import OutputExists, PictureFailed
from miad_cli.files import InputFile, read_file
from miad_cli.imaging.derivation import CREATOR_UID
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.picture import Picture, container_in, container_in_file
from miad_cli.instance import job_of
from miad_cli.protection.choices import Choices
from miad_cli.protection.preparation import Prepared
from miad_cli.seal.carriers import sidecar_of
from miad_cli.verify import Verdict, verify_file

_NO_PICTURE = (Verdict.UNREADABLE, Verdict.NO_PICTURE)


def is_protected(picture: Picture, path: Path) -> bool:
    """True where a container is in the file or beside it, or where the instance says it is ours
    although its container was stripped."""
    if container_in(picture) is not None or sidecar_of(path).exists():
        return True
    return (
        isinstance(picture, DicomPicture)
        and picture.dataset.get("InstanceCreatorUID") == CREATOR_UID
    )


def remove_ours(target: Path) -> None:
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


class Earlier:
    """What the output of a run held before it."""

    def __init__(self, prepared: Prepared, choices: Choices) -> None:
        self._prepared, self._choices = prepared, choices

    def keeps(self, file: InputFile, picture: Picture) -> bool:
        """True where what is in the output already stays.

        A run that is resumed keeps what is authentic and was made of this very original in this
        very way; of the rest it replaces only what carries a container.

        Raises:
            OutputExists: a run is resumed, and what is there is not miad's.
        """
        target, on_exists = self._prepared.place_of(file), self._prepared.request.on_exists
        if not target.exists() or on_exists in ("fail", "replace"):
            return False
        if on_exists == "skip":
            return True
        seen = verify_file(target, [self._choices.owner.public])
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
        sealing = self._choices.sealing_for(picture, self._prepared.group_of[file])
        return job_of(sealing, original) == seen.job
