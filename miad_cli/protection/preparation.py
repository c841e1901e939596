"""What is read and chosen before the first picture: files, logo, device, study, lesion masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from miad_cli.decisions import Anywhere, Avoid
from miad_cli.errors import MaskUnusable
from miad_cli.files import (
    InputFile,
    check_output,
    collect_inputs,
    plan_outputs,
    remove_abandoned_parts,
)
from miad_cli.imaging.masks import read_masks
from miad_cli.models.session import Device, choose_device
from miad_cli.protection.request import Request, check
from miad_cli.seal.carriers import SIDECAR_SUFFIX
from miad_cli.study import Group, Study, survey
from miad_cli.watermark.logo import Bytes, load_logo

_NEVER_PICTURES = (SIDECAR_SUFFIX, ".txt", ".csv", ".json", ".xml", ".pdf", ".html", ".md")
"""Names of files that may lie beside a picture under the same name."""


@dataclass(frozen=True)
class Prepared:
    """A request, and what there is once for all processes of its run.

    Attributes:
        files: every file below the inputs, in the order of the report.
        names: the place in the output of every one of them.
        avoid: what the logo keeps off, and the bytes that a resumed run knows it by.
    """

    request: Request
    files: tuple[InputFile, ...] = field(repr=False)
    logo: Bytes = field(repr=False)
    device: Device
    study: Study = field(repr=False)
    names: Mapping[PurePosixPath, PurePosixPath] = field(repr=False)
    avoid: tuple[Avoid, tuple[bytes, ...]] = field(repr=False)

    @cached_property
    def group_of(self) -> dict[InputFile, Group]:
        """The group of every file."""
        return {file: group for group in self.study.groups for file in group.files}

    def place_of(self, file: InputFile) -> Path:
        """Where in the output a file goes."""
        return self.request.output / self.names[file.relative]


def prepare(request: Request) -> Prepared:
    """Look at everything that concerns the run as a whole.

    Raises:
        MiadError: it cannot be done.
    """
    check(request)
    files = collect_inputs(request.inputs)
    logo, device = load_logo(request.logo), choose_device(request.device)
    check_output(request.inputs, request.output, may_exist=request.on_exists != "fail")
    remove_abandoned_parts(request.output)
    study, names = survey(files), plan_outputs(files)
    avoid = _what_to_avoid(request, study, names)
    return Prepared(request, tuple(files), logo, device, study, names, avoid)


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
