"""What comes along with the pictures: a DICOMDIR, objects without a picture.

Such a file holds no mark to undo. What stands in the output is another file (a directory made
anew, a copy under new UIDs) or nothing, and the original travels whole in the sidecar beside it.
Its manifest speaks of that other file as a whole: there are no pixels to tell apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from miad_cli import __version__
from miad_cli.errors import OutputExists, PictureFailed, RestorationMismatch
from miad_cli.files import InputFile, read_file, write_files
from miad_cli.imaging.dicom import A_DICOMDIR, is_dicom
from miad_cli.imaging.dicomdir import DICOMDIR, build_dicomdir, file_set_id_of
from miad_cli.imaging.digests import facts_digest
from miad_cli.imaging.others import copy_other
from miad_cli.instance import Sealing, job_of
from miad_cli.outcomes import DIRECTORY_MADE, Outcome
from miad_cli.restoration import restore
from miad_cli.seal.carriers import SIDECAR_SUFFIX, sidecar_of
from miad_cli.seal.companion import WHOLE_FILE, companion_digest
from miad_cli.seal.container import Draft, parse, seal
from miad_cli.seal.payload import Payload, encode

OnExists = Literal["fail", "skip", "replace", "resume"]


@dataclass
class Companions:
    """Decides what becomes of each DICOM object without a picture.

    Attributes:
        output, names: the output folder, and the place in it of every input file.
        copy: whether objects without a picture are taken along.
        originals: every UID of an instance or a series in the input.
        new_uid: what stands in the output for such a UID.
        directories: the DICOMDIR files that were met; to be made anew once all is written.
    """

    output: Path
    names: Mapping[PurePosixPath, PurePosixPath]
    copy: bool
    on_exists: OnExists
    dry_run: bool
    originals: frozenset[str]
    new_uid: Callable[[str], str]
    sealing: Callable[[], Sealing]
    directories: list[InputFile] = field(default_factory=list)

    def other(self, file: InputFile, reason: str) -> Outcome:
        """What becomes of an object that is `reason` and no picture.

        Raises:
            PictureFailed: it was to be copied, and cannot be.
            OutputExists: something else has its place.
        """
        name, output = file.relative, self.names[file.relative]
        passed = Outcome(name, "passed over", reason, is_picture=False)
        if reason == A_DICOMDIR:
            self.directories.append(file)
            return passed
        if not self.copy:
            return passed
        if self.dry_run:
            return replace(passed, state="planned", reason=f"copy: {reason}")
        if self._stays(output):
            return replace(passed, state="skipped", reason="there already", output=output)
        content = read_file(file.path)
        copied = copy_other(content, self.new_uid, self.originals)
        write_companion(self.output / output, copied, file.path.name, content, self.sealing())
        return replace(passed, state="copied", output=output)

    def directory(self, file: InputFile, outcomes: Iterable[Outcome]) -> Outcome:
        """Make a DICOMDIR for what is in the output below its folder, and seal the original."""
        name, output = file.relative, self.names[file.relative]
        passed = Outcome(name, "passed over", A_DICOMDIR, is_picture=False)
        written = [one.output for one in outcomes if one.output and _is_instance(one)]
        below = sorted(
            one for one in written if output.parent in one.parents and self._is_dicom(one)
        )
        if self.dry_run or not below:
            return passed
        try:
            if self._stays(output):
                return replace(passed, state="skipped", reason="there already", output=output)
            content = read_file(file.path)
            made, reason = self._directory_for(content, output.parent, below)
            write_companion(self.output / output, made, file.path.name, content, self.sealing())
        except (PictureFailed, OutputExists) as error:
            return Outcome(name, "failed", error.message, error.hint, error.exit_code, False)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            return Outcome(name, "failed", reason, "", PictureFailed.exit_code, False)
        if made is None:
            return replace(passed, reason=f"{A_DICOMDIR}; {reason}; the original is sealed")
        return replace(passed, state="copied", reason=DIRECTORY_MADE, output=output)

    def _is_dicom(self, output: PurePosixPath) -> bool:
        with (self.output / output).open("rb") as stream:
            return is_dicom(stream.read(132))

    def _directory_for(
        self, content: bytes, folder: PurePosixPath, files: Sequence[PurePosixPath]
    ) -> tuple[bytes | None, str]:
        """The new DICOMDIR of a folder of the output, or why there cannot be one."""
        uid = self.new_uid(hashlib.sha256(content).hexdigest())
        inside = [one.relative_to(folder) for one in files]
        try:
            place = self.output / folder
            return build_dicomdir(place, inside, uid, file_set_id_of(content)), ""
        except PictureFailed as error:
            return None, error.message

    def _stays(self, output: PurePosixPath) -> bool:
        """True where what is in the output already is not to be replaced.

        A run that is resumed writes its companions again: they follow from the pictures.
        """
        target = self.output / output
        if not target.exists() or self.on_exists in ("fail", "replace"):
            return False
        if self.on_exists == "resume" and not sidecar_of(target).exists():
            raise OutputExists(
                "another file, which miad did not write, has its place in the output",
                hint="Move it away, or name another folder with -o.",
            )
        return self.on_exists == "skip"


def _is_instance(outcome: Outcome) -> bool:
    """Whether an instance stands in the output: no failure, and no DICOMDIR."""
    there = outcome.state in ("protected", "skipped", "copied")
    return there and outcome.reason != DIRECTORY_MADE and outcome.name.name != DICOMDIR


def write_companion(
    output: Path, written: bytes | None, original_name: str, content: bytes, sealing: Sealing
) -> None:
    """Write a companion, and the sidecar that gives the original back.

    Args:
        output: where the companion goes; its sidecar goes beside it.
        written: what stands in the output instead of the original; None for nothing.
        original_name, content: the original file.

    Raises:
        PictureFailed: it cannot be sealed, or not so that it could be restored.
    """
    subject = sealing.owner.derive_uid(
        "companion", hashlib.sha256(content).digest(), companion_digest(written).encode()
    )
    container = seal_other(written, original_name, content, subject, sealing)
    contents = {output.name + SIDECAR_SUFFIX: container}
    if written is not None:
        contents[output.name] = written

    def check(parts: dict[str, Path]) -> None:
        for name, part in parts.items():
            if part.read_bytes() != contents[name]:
                raise PictureFailed("the disk did not keep what was written")

    write_files(output.parent, contents, check)
    if written is None:  # one from an earlier run would not be what this sidecar speaks of
        output.unlink(missing_ok=True)


def seal_other(
    written: bytes | None, original_name: str, content: bytes, subject: str, sealing: Sealing
) -> bytes:
    """The container that gives the original file `content` back to whoever has a key.

    Args:
        written: the file that the container lies beside, whose bytes are signed; None where it
            stands for itself.
        subject: a UID for the two of them.

    Raises:
        PictureFailed: it cannot be sealed, or would not come back.
    """
    digest = companion_digest(written)
    original_sha256 = hashlib.sha256(content).hexdigest()
    try:
        payload = Payload(
            subject=subject,
            original_name=original_name,
            original_sha256=original_sha256,
            original_length=len(content),
            mode="original",
            recipe={},
            parts={"original": content},
            recipients=tuple(sorted({one.text for one in sealing.recipients})),
        )
        draft = Draft(
            subject=subject,
            pixels_sha256=digest,
            pixel_data_sha256=digest,
            attributes_sha256=facts_digest({}),
            tiles=WHOLE_FILE,
            attributes={},
            job=job_of(sealing, original_sha256),
            payload_mode="original",
            tool=f"miad {__version__}",
        )
    except ValueError as error:
        raise PictureFailed(f"it cannot be sealed: {error}") from None
    container = seal(draft, encode(payload), [one.age for one in sealing.recipients], sealing.owner)
    parse(container)
    if restore(payload, None) != content:
        raise RestorationMismatch("the restored file differs from the original")
    return container
