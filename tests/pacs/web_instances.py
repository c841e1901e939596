"""Instances to hand to a transport, without `send` before it."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from pictures import Study
from pydicom import dcmread
from pydicom.uid import generate_uid

from miad_cli.pacs.outcome import Instance


def instances_of(study: Study, path: Path | None = None, content: bytes = b"") -> list[Instance]:
    """The protected files of a study; or only a new file `path` with that content, which says of
    itself what the study's first does, under a UID of its own."""
    if path is not None:
        path.write_bytes(content)
    made = []
    for source in [study.files[0]] if path else study.files:
        head = dcmread(source, stop_before_pixels=True)
        place = path or source
        made.append(
            Instance(
                place,
                PurePosixPath(path.name if path else source.relative_to(study.protected)),
                hashlib.sha256(place.read_bytes()).hexdigest(),
                str(head.SOPClassUID),
                str(generate_uid() if path else head.SOPInstanceUID),
                str(head.file_meta.TransferSyntaxUID),
                str(head.StudyInstanceUID),
                str(head.SeriesInstanceUID),
            )
        )
    return made
