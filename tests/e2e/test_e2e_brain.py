"""A series of the head with the search that ships, where the data is at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SERIES = Path(os.environ.get("MIAD_DATA", "")) / "dicom_series" / "brain_t1"


@pytest.mark.skipif(
    not (os.environ.get("MIAD_DATA") and SERIES.is_dir()),
    reason="MIAD_DATA names no folder with dicom_series/brain_t1",
)
def test_a_series_of_the_head_there_and_back(open_workshop):
    workshop = open_workshop("brain")
    study = workshop.folder / "study"
    study.mkdir()
    for path in sorted(SERIES.iterdir())[::4]:  # the search takes seconds a slice
        shutil.copyfile(path, study / path.name)
    originals = {path.name: path.read_bytes() for path in study.iterdir()}

    protected = workshop.miad(
        "protect", "study", "--logo", workshop.logo, "--profile", "brain-mri", "--json"
    )
    assert protected.code == 0, protected.err
    assert protected.json["counts"]["protected"] == len(originals)
    assert protected.json["fooled"]["of"] == len(originals)
    assert {one["task"] for one in protected.json["files"]} == {"brain_mri"}

    assert workshop.miad("verify", "study-protected").code == 0

    unlocked = workshop.miad("unlock", "study-protected", "--key", protected.json["key"])
    assert unlocked.code == 0, unlocked.err
    restored = {
        path.name: path.read_bytes() for path in (workshop.folder / "study-unlocked").iterdir()
    }
    assert restored == originals
