"""Profiles: seven ship, attributes choose one, and every fault of a file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from miad_cli.errors import UsageError
from miad_cli.imaging.image import StudyFacts
from miad_cli.profiles import (
    fitting_profile,
    load_profile,
    named_profile,
    shipped_profiles,
    with_overrides,
)
from miad_cli.protection.choices import described

SHIPPED = {
    "brain-mri": "brain_mri",
    "breast-us": "breast_us",
    "chest-ct": "chest_ct",
    "chest-xray": "chest_xray",
    "dermoscopy": "dermoscopy",
    "fundus": "fundus",
    "general": None,
}


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text('name = "mine"\ntitle = "Mine"\n' + text, encoding="utf-8")
    return path


def test_shipped_profiles_name_their_tasks() -> None:
    profiles = shipped_profiles()
    assert {name: one.models.task for name, one in profiles.items()} == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_uses_the_papers_numbers(name: str) -> None:
    search = named_profile(name).search
    assert search.method == "guided"
    assert (search.parents, search.generations, search.alpha_step) == (15, 2, 15)
    assert (search.keep, search.density) == (0.3, 0.005)
    assert named_profile(name).lesions.threshold == 190


@pytest.mark.parametrize(
    ("modality", "body_part", "name"),
    [
        ("MR", "BRAIN", "brain-mri"),
        ("MR", "Head", "brain-mri"),
        ("MR", "KNEE", "general"),
        ("MR", "", "general"),
        ("US", "BREAST", "breast-us"),
        ("CT", "CHEST", "chest-ct"),
        ("CT", "HEAD", "general"),
        ("DX", "CHEST", "chest-xray"),
        ("CR", "THORAX", "chest-xray"),
        ("XC", "SKIN", "dermoscopy"),
        ("OP", "", "fundus"),
        ("OP", "EYE", "fundus"),
        ("", "", "general"),
        ("MG", "BREAST", "general"),
    ],
)
def test_attributes_of_the_study_choose_the_profile(
    modality: str, body_part: str, name: str
) -> None:
    facts = StudyFacts(modality=modality, body_part=body_part)
    assert fitting_profile(shipped_profiles(), facts).name == name


def test_sop_class_and_photometric_interpretation_can_choose(tmp_path: Path) -> None:
    text = '[match]\nsop_class_uid = ["1.2.3"]\nphotometric_interpretation = ["RGB"]\n'
    match = load_profile(written(tmp_path, text)).match
    assert match.fits(StudyFacts(sop_class_uid="1.2.3", photometric_interpretation="RGB"))
    assert not match.fits(StudyFacts(sop_class_uid="1.2.3", photometric_interpretation="PALETTE"))
    assert not match.fits(StudyFacts(sop_class_uid="1.2.4", photometric_interpretation="RGB"))


def test_profile_that_names_no_attribute_fits_nothing(tmp_path: Path) -> None:
    assert not load_profile(written(tmp_path, "")).match.fits(StudyFacts(modality="CT"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[search]\nbudget = 1", "search.budget"),
        ("[logo]\nscale = 0", "logo.scale"),
        ("[lesions]\nthreshold = 256", "lesions.threshold"),
        ("[search]\nkeep = 0.0", "search.keep"),
        ('[search]\nmethod = "guess"', "search.method"),
        ('[seal]\ncarrier = "post"', "seal.carrier"),
        ('[match]\nmodality = "CT"', "match.modality"),
        ("[search]\nalpha_step = 255", "search.alpha_step"),
    ],
)
def test_fault_is_named_with_its_path(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as refusal:
        load_profile(path)
    assert str(path) in refusal.value.message
    assert f"  {named}" in refusal.value.message


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = 'colour = 1\n[search]\nbudget = 1\nparents = 0\n[seal]\ncarrier = "post"\n'
    with pytest.raises(UsageError) as refusal:
        load_profile(written(tmp_path, text))
    lines = refusal.value.message.splitlines()[1:]
    assert {line.split(":")[0].strip() for line in lines} == {
        "colour",
        "search.budget",
        "search.parents",
        "seal.carrier",
    }


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not valid TOML"):
        named_profile(str(path))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        named_profile(str(tmp_path / "none.toml"))


def test_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as refusal:
        named_profile("knee")
    assert all(name in refusal.value.hint for name in SHIPPED)


def test_overrides_replace_settings_and_leave_the_others() -> None:
    profile = named_profile("chest-ct")
    changed = with_overrides(profile, {"search": {"method": "random"}, "logo": {"scale": 4}})
    assert changed.search.method == "random"
    assert changed.search.parents == 15
    assert changed.logo.scale == 4
    assert changed.logo.smallest == profile.logo.smallest
    assert profile.search.method == "guided"


def test_digest_follows_every_setting() -> None:
    profile = named_profile("chest-ct")
    assert profile.digest == named_profile("chest-ct").digest
    changed = with_overrides(profile, {"search": {"keep": 0.31}})
    assert changed.digest != profile.digest


def test_logo_shrinks_from_the_wanted_to_the_smallest_size() -> None:
    assert list(named_profile("chest-ct").logo.divisors) == [2, 3, 4, 5, 6, 7, 8]
    large = with_overrides(named_profile("chest-ct"), {"logo": {"scale": 32}})
    assert list(large.logo.divisors) == [32]


def test_recipients_lie_beside_their_profile(tmp_path: Path) -> None:
    text = 'name = "ours"\ntitle = "Ours"\n[seal]\nrecipients = "readers.txt"\n'
    (tmp_path / "ours.toml").write_text(text)
    profile = load_profile(tmp_path / "ours.toml")
    assert profile.recipients_file == tmp_path / "readers.txt"
    changed = with_overrides(profile, {"seal": {"payload": "original"}})
    assert changed.recipients_file == tmp_path / "readers.txt"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ours.toml").write_text(text)
    assert load_profile(tmp_path / "elsewhere" / "ours.toml").digest == profile.digest


def test_shipped_profiles_name_no_recipients() -> None:
    assert {one.recipients_file for one in shipped_profiles().values()} == {None}


def test_report_names_models_without_the_folders_they_lie_in() -> None:
    where = "/home/somebody/patients/models/own"
    wanted = {
        "models": {"names": (where,), "attention": where},
        "lesions": {"source": "segmentation", "segmentation": where},
    }
    facts = described(with_overrides(named_profile("general"), wanted))
    assert "somebody" not in str(facts)
    assert facts["models"]["names"] == [facts["models"]["attention"]] == ["own"]
    assert facts["lesions"]["segmentation"] == "own"
