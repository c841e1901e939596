"""Lesions by a segmentation network: on the picture's pixels, as boxes and as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import write_convolutional_model
from onnx import TensorProto, helper
from strangers import model, write_described

from miad_cli.errors import NoRoomForLogo, UsageError
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Surrogate, load_bank
from miad_cli.models.session import Device
from miad_cli.profiles import load_profile, shipped_profiles
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.segmentation import (
    beside_segmentation,
    lesion_map,
    lesions_above,
    surer_and_surer,
)

CPU = Device()
SIDE = 32
STEEP = 20.0
"""Logit of a white pixel; that of a black one is its opposite."""


def write_segmenter(
    folder: Path, fit: str = "stretch", planes: int = 1, values: str = "logits"
) -> Surrogate:
    """What is bright is lesion: one plane of scores, or one each for background and lesion."""
    towards = np.full((1, 3, 1, 1), 2 * STEEP / 3, np.float32)
    kernel = towards if planes == 1 else np.concatenate([-towards, towards]) / 2
    bias = np.array([-STEEP] if planes == 1 else [STEEP / 2, -STEEP / 2], np.float32)
    last = "scores" if values == "probabilities" else "where"
    nodes = [helper.make_node("Conv", ["picture", "kernel", "bias"], [last])]
    if values == "probabilities":
        nodes.append(helper.make_node("Sigmoid", ["scores"], ["where"]))
    square = [SIDE, SIDE]
    proto = model(
        nodes,
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, *square])],
        [helper.make_tensor_value_info("where", TensorProto.FLOAT, ["n", planes, *square])],
        {"kernel": kernel, "bias": bias},
    )
    described = f"""[input]
tensor = "picture"
rows = {SIDE}
columns = {SIDE}
fit = "{fit}"

[[outputs]]
kind = "mask"
tensor = "where"
values = "{values}"
labels = ["background", "lesion"]
"""
    write_described(folder, proto, "segmentation", described)
    return Surrogate(folder, CPU)


def image_with(*lesions: tuple[slice, slice], frames: int = 1) -> MedicalImage:
    """A dark picture of 48 x 80 pixels, bright where the lesions are; each in a frame of its own
    where there are several frames."""
    stored = np.full((frames, 48, 80, 1), 100, np.int32)
    for number, (rows, columns) in enumerate(lesions):
        stored[number % frames, rows, columns] = 900
    return MedicalImage(stored, (0, 1023), Window(0, 1000))


LEFT, RIGHT = (slice(10, 30), slice(5, 25)), (slice(20, 40), slice(50, 75))


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(("planes", "values"), [(1, "logits"), (2, "logits"), (1, "probabilities")])
def test_lesions_lie_where_they_are_in_the_picture(
    tmp_path: Path, fit: str, planes: int, values: str
) -> None:
    network = write_segmenter(tmp_path / "bright", fit, planes, values)
    found = lesions_above(lesion_map([(image_with(LEFT, RIGHT), 0)], network), 0.5)
    assert found is not None
    assert found.source == "segmentation"
    sides = [
        (box.x, box.y, box.x + box.width, box.y + box.height)
        for box in sorted(found.boxes, key=lambda box: box.x)
    ]
    # A pixel of the model's is 1.5 to 2.5 of the picture's.
    np.testing.assert_allclose(sides, [(5, 10, 25, 30), (50, 20, 75, 40)], atol=2)


def test_boxes_hold_what_is_likely_and_the_runs_nothing_else(tmp_path: Path) -> None:
    network = write_segmenter(tmp_path / "bright")
    image = image_with(LEFT, (slice(25, 40), slice(20, 60)))
    likely = lesion_map([(image, 0)], network)
    assert likely.shape == (48, 80)
    assert likely.dtype == np.float32
    found = lesions_above(likely, 0.5)
    assert found is not None
    exact, boxed = np.zeros((48, 80), int), np.zeros((48, 80), bool)
    for box in found.exact:
        exact[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    for box in found.boxes:
        boxed[box.y : box.y + box.height, box.x : box.x + box.width] = True
    np.testing.assert_array_equal(exact, (likely >= 0.5).astype(int))
    assert boxed.sum() > 1.2 * exact.sum()  # the two lesions meet: one box around both
    assert not exact[~boxed].any()


def test_boxes_reach_farther_by_a_share_of_the_longer_side_and_end_with_the_picture() -> None:
    likely = np.zeros((40, 80), np.float32)
    likely[10:14, 20:30] = likely[38:, 70:] = 0.9
    found = lesions_above(likely, 0.5, 0.05)
    plain = lesions_above(likely, 0.5)
    assert found is not None
    assert plain is not None
    assert set(found.boxes) == {Box(16, 6, 18, 12), Box(66, 34, 14, 6)}
    assert set(plain.boxes) == {Box(20, 10, 10, 4), Box(70, 38, 10, 2)}
    assert found.exact == plain.exact


def test_a_lesion_in_any_frame_counts(tmp_path: Path) -> None:
    network = write_segmenter(tmp_path / "bright")
    image = image_with(LEFT, RIGHT, frames=2)
    alone = [lesions_above(lesion_map([(image, frame)], network), 0.5) for frame in (0, 1)]
    both = lesions_above(lesion_map([(image, 0), (image, 1)], network), 0.5)
    assert [len(one.boxes) for one in (*alone, both) if one is not None] == [1, 1, 2]
    assert set(both.boxes) == {*alone[0].boxes, *alone[1].boxes}


def test_nothing_found_is_no_lesion(tmp_path: Path) -> None:
    network = write_segmenter(tmp_path / "bright", "pad")
    assert lesions_above(lesion_map([(image_with(), 0)], network), 0.5) is None


def test_ever_less_counts_where_it_has_to_be_surer() -> None:
    likely = np.zeros((10, 10), np.float32)
    likely[1:9, 1:9], likely[2:8, 2:8], likely[4:6, 4:6] = 0.6, 0.8, 0.95
    widths = [one.boxes[0].width for one in surer_and_surer(likely, 0.5, 0.0)]
    assert widths == [8, 6, 2]
    assert [one.boxes[0].width for one in surer_and_surer(likely, 0.75, 0.0)] == [6, 2]
    assert list(surer_and_surer(likely, 0.97, 0.0)) == []


WHOLE, SURE = (Box(2, 2, 6, 6),), (Box(6, 6, 2, 2),)


@pytest.mark.parametrize(
    ("free", "boxes", "kept_off"),
    [
        (Box(0, 0, 2, 2), WHOLE, WHOLE),
        (Box(5, 2, 3, 3), WHOLE, {Box(2, 2, 2, 4), Box(2, 6, 6, 2)}),  # inside the box
        (Box(2, 2, 2, 2), SURE, SURE),  # on what is likely
    ],
)
def test_a_logo_without_room_comes_nearer(
    free: Box, boxes: tuple[Box, ...], kept_off: Collection[Box]
) -> None:
    likely = np.zeros((10, 10), np.float32)
    likely[2:8, 2:4] = likely[6:8, 2:8] = 0.6  # an L, of which the end is sure
    likely[6:8, 6:8] = 0.95

    def place(given: Sequence[Box]) -> Sequence[Box]:
        if any(free.meets(box) for box in given):
            raise NoRoomForLogo("no room")
        return given

    found = beside_segmentation(likely, 0.5, 0.0, place)
    assert found is not None
    assert found[0].boxes == boxes
    assert set(found[1]) == set(kept_off)


def test_a_lesion_that_leaves_no_room_at_all_is_no_help() -> None:
    def place(boxes: Sequence[Box]) -> None:
        raise NoRoomForLogo("no room")

    assert beside_segmentation(np.ones((4, 4), np.float32), 0.5, 0.0, place) is None
    assert beside_segmentation(np.zeros((4, 4), np.float32), 0.5, 0.0, lambda boxes: boxes) is None


# --- Which network ------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_convolutional_model(tmp_path / "classes")
    write_segmenter(tmp_path / "bright")
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    return tmp_path


def test_a_bank_has_the_network_that_is_asked_for(models: Path) -> None:
    with_it = load_bank("toy", (), None, CPU, segmentation="bright")
    without = load_bank("toy", (), None, CPU)
    assert with_it.segmentation is not None
    assert with_it.segmentation.manifest.name == "bright"
    assert without.segmentation is None
    for bank in (with_it, without):
        assert [one.manifest.name for one in bank.surrogates] == ["classes"]
        assert bank.attention.manifest.name == "classes"
    assert with_it.digest != without.digest


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("classes", "its role is classifier", "bright"),
        ("elsewhere", "no model is called elsewhere", "bright, classes"),
    ],
)
def test_a_network_that_is_none_is_refused(models: Path, name: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        load_bank("toy", (), None, CPU, segmentation=name)
    assert hint in refusal.value.hint


# --- Profiles -------------------------------------------------------------------------------------


def profile_of(folder: Path, lesions: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f'name = "mine"\ntitle = "Mine"\n[lesions]\n{lesions}\n')
    return path


def test_a_profile_asks_its_network_only_where_it_says_so(tmp_path: Path) -> None:
    named = 'segmentation = "bright"'
    assert load_profile(profile_of(tmp_path, named)).lesions.network is None
    chosen = load_profile(profile_of(tmp_path, f'source = "segmentation"\n{named}')).lesions
    assert (chosen.network, chosen.probability) == ("bright", 0.5)


@pytest.mark.parametrize(
    ("lesions", "named"),
    [
        ('source = "segmentation"', 'segmentation = "NAME"'),
        ('source = "guess"', "lesions.source"),
        ('segmentation = ""', "lesions.segmentation"),
        ("probability = 1.0", "lesions.probability"),
        ('network = "bright"', "lesions.network"),
    ],
)
def test_what_a_profile_cannot_mean_is_named(tmp_path: Path, lesions: str, named: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load_profile(profile_of(tmp_path, lesions))
    assert "  lesions" in refusal.value.message
    assert named in refusal.value.message


def test_no_shipped_profile_names_a_network_that_does_not_ship() -> None:
    for profile in shipped_profiles().values():
        if profile.lesions.network is not None:
            network = bank_room.load_segmentation(profile.lesions.network, CPU)
            assert network.manifest.role == "segmentation"
