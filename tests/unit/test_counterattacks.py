"""What an infringer tries does what its name says, to grey and colour, the same every time."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import SIDE, write_convolutional_model, write_flat_model
from skimage.restoration import denoise_tv_chambolle
from sklearn.linear_model import LogisticRegression
from strangers import write_remover

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.evaluation.adaptive import fine_tuned, logistic_regression
from miad_cli.evaluation.counterattacks import (
    as_shown,
    counterattacks,
    removal_network,
    total_variation,
)
from miad_cli.evaluation.metrics import psnr
from miad_cli.evaluation.pixels import Picture
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models.bank import Surrogate
from miad_cli.models.session import Device

CPU = Device()
ATTACKS = counterattacks()
SIMPLE = [one.name for one in ATTACKS.values() if one.needs == "nothing"]
ROWS, COLUMNS = 40, 51
LOGO = np.s_[10:22, 8:30]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth(samples: int) -> Picture:
    """Waves: what every mild processing leaves about as it is."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    planes = [128 + 80 * np.sin(y / 9 + one) * np.cos(x / 11 - one) for one in range(samples)]
    return np.stack(planes, axis=2).astype(np.uint8)


def noisy(samples: int = 1, strength: float = 6) -> Picture:
    clean = smooth(samples)
    return np.clip(clean + rng(1).normal(0, strength, clean.shape), 0, 255).astype(np.uint8)


def logo_mask() -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[LOGO] = True
    return mask


def marked(samples: int) -> Picture:
    picture = smooth(samples)
    picture[LOGO] = 255
    return picture


def careful(picture: Picture) -> tuple[Picture, np.ndarray]:
    """A removal network that inverts everything and finds the logo but for its edge."""
    mask = logo_mask()
    mask[10], mask[:, 8] = False, False
    return 255 - picture, mask


def done(name: str, picture: Picture) -> Picture:
    return ATTACKS[name].on(picture, mask=logo_mask(), remover=careful)


# --- All of them --------------------------------------------------------------------------------


def test_report_has_an_order() -> None:
    assert list(ATTACKS) == [
        "as-shown", "jpeg-95", "jpeg-75", "jpeg-50", "webp-75",
        "half-size", "crop-90", "rotate-5", "rotate-15",
        "blur", "median", "bilateral", "non-local-means", "total-variation",
        "bits-5", "brighter", "darker", "window-narrow", "window-wide",
        "inpaint-telea", "inpaint-ns", "inpaint-telea-found", "inpaint-ns-found",
        "removal", "removal-whole", "inpaint-telea-jpeg-75", "removal-jpeg-75",
    ]  # fmt: skip
    assert all(name == one.name and one.title for name, one in ATTACKS.items())
    assert len({one.title for one in ATTACKS.values()}) == len(ATTACKS)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_gives_such_a_picture_again(name: str, samples: int) -> None:
    picture = noisy(samples)
    before = picture.copy()
    after = done(name, picture)
    assert (after.shape, after.dtype) == (picture.shape, np.uint8)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(after, done(name, picture))
    assert np.array_equal(after, picture) == (name == "as-shown")


def test_simple_attacks_leave_a_smooth_picture_readable_and_in_its_place() -> None:
    """Nobody gains by what destroys the picture. What moves pixels is far from the original where
    there is something to move: a pattern that the others leave."""
    y, x = np.mgrid[:96, :96]
    chessboard = np.where((y // 16 + x // 16) % 2, 220, 40).astype(np.uint8)[..., None]
    for name in SIMPLE:
        likeness = psnr(chessboard, ATTACKS[name].on(chessboard), data_range=255)
        assert (likeness > 17) != ATTACKS[name].moves, name


@pytest.mark.parametrize("samples", [1, 3])
def test_tiny_pictures_are_attacked_too(samples: int) -> None:
    for name in SIMPLE:
        for shape in ((1, 1), (2, 3), (9, 1)):
            picture = np.full((*shape, samples), 90, np.uint8)
            assert ATTACKS[name].on(picture).shape == picture.shape


@pytest.mark.parametrize("name", ["inpaint-telea", "removal"])
def test_what_an_attack_needs_has_to_be_there(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ATTACKS[name].on(smooth(1))


def test_mask_and_answers_have_the_pictures_size() -> None:
    with pytest.raises(ValueError, match="size"):
        ATTACKS["inpaint-ns"].on(smooth(1), mask=logo_mask()[1:])
    with pytest.raises(ValueError, match="the remover gave"):
        ATTACKS["removal"].on(smooth(1), remover=lambda one: (one, logo_mask()[1:]))


@pytest.mark.parametrize(
    "picture", [smooth(1)[..., 0], smooth(1).astype(np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_no_8_bit_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no 8-bit picture"):
        ATTACKS["as-shown"].on(picture)


def test_missing_opencv_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError) as refused:
        ATTACKS["blur"].on(smooth(1))
    assert 'pip install "miad[report]"' in refused.value.hint
    ATTACKS["jpeg-75"].on(smooth(1))  # does without


# --- One by one ---------------------------------------------------------------------------------


def test_lossy_files_lose_more_at_lower_quality() -> None:
    for samples in (1, 3):
        picture = noisy(samples)
        kept = [psnr(picture, done(f"jpeg-{q}", picture), data_range=255) for q in (95, 75, 50)]
        assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("name", ["blur", "median", "bilateral", "non-local-means"])
def test_filter_takes_noise_off(name: str) -> None:
    clean, picture = smooth(1), noisy(1)
    before = psnr(clean, picture, data_range=255)
    assert psnr(clean, done(name, picture), data_range=255) > before + 1


def test_median_takes_single_pixels_away() -> None:
    picture = np.full((9, 9, 1), 100, np.uint8)
    picture[4, 4] = 255
    assert (done_small("median", picture) == 100).all()


def done_small(name: str, picture: Picture) -> Picture:
    return ATTACKS[name].on(picture)


def test_blur_has_the_width_it_says() -> None:
    point = np.zeros((15, 15, 1), np.uint8)
    point[7, 7] = 255
    seen = done_small("blur", point)[..., 0].astype(float)
    weights = np.exp(-(np.arange(-7, 8) ** 2) / 2)
    expected = 255 * np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(seen, expected, atol=1.5)


@pytest.mark.parametrize("weight", [0.05, 0.1])
def test_total_variation_is_the_minimum(weight: float) -> None:
    picture = noisy(3).astype(np.float32) / 255
    expected = denoise_tv_chambolle(
        picture.astype(float), weight=weight, eps=0, max_num_iter=400, channel_axis=-1
    )
    ours = total_variation(picture, weight, 400)
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    assert np.abs(ours - picture).max() > 20 * np.abs(ours - expected).max()


def test_half_the_size_is_blind_to_single_lines() -> None:
    lines = np.zeros((40, 40, 1), np.uint8)
    lines[::2] = 255
    assert np.ptp(done_small("half-size", lines)[4:-4].astype(int)) < 30


def test_crop_magnifies_the_centre() -> None:
    picture = np.zeros((100, 100, 1), np.uint8)
    picture[5:95, 5:95] = 200
    assert (done_small("crop-90", picture) == 200).all()


@pytest.mark.parametrize("degrees", [5, 15])
def test_rotation_turns_and_blackens_the_corners(degrees: int) -> None:
    picture = np.full((101, 101, 1), 200, np.uint8)
    picture[48:53, 50:] = 50  # a hand that points right
    turned = done_small(f"rotate-{degrees}", picture)[..., 0]
    assert turned[0, 0] == turned[0, -1] == turned[-1, 0] == turned[-1, -1] == 0
    angle = np.radians(degrees)
    tip = round(50 - 40 * np.sin(angle)), round(50 + 40 * np.cos(angle))
    assert turned[tip] == 50
    assert turned[50, 10] == 200


def test_five_bits_are_32_levels_near_the_old_ones() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    reduced = done_small("bits-5", ramp)
    assert len(np.unique(reduced)) == 32
    assert (reduced.min(), reduced.max()) == (0, 255)
    assert np.abs(reduced.astype(int) - ramp).max() <= 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brighter", [26, 154, 255]),
        ("darker", [0, 102, 230]),
        ("window-narrow", [0, 128, 255]),
        ("window-wide", [26, 128, 230]),
    ],
)
def test_levels_move_as_named(name: str, expected: list[int]) -> None:
    picture = np.array([0, 128, 255], np.uint8).reshape(1, 3, 1)
    assert done_small(name, picture).ravel().tolist() == pytest.approx(expected, abs=1)


def test_picture_of_more_bits_is_shown_through_its_window() -> None:
    stored = np.array([0, 1000, 1004, 3000, 5000], np.uint16).reshape(1, 1, 5, 1)
    image = MedicalImage(stored, (0, 65535), Window(1000, 3000))
    assert as_shown(image).ravel().tolist() == [0, 0, 1, 255, 255]
    turned = MedicalImage(stored, (0, 65535), Window(1000, 3000), inverted=True)
    assert as_shown(turned).ravel().tolist() == [255, 255, 254, 0, 0]
    frames = MedicalImage(
        np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), (0, 255), Window(0, 255)
    )
    np.testing.assert_array_equal(as_shown(frames, 0), frames.stored[0])
    np.testing.assert_array_equal(as_shown(frames), frames.stored[1])


# --- Taking the logo off ------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", ["inpaint-telea", "inpaint-ns"])
def test_inpainting_restores_what_is_smooth_and_touches_nothing_else(
    name: str, samples: int
) -> None:
    clean, after = smooth(samples), done(name, marked(samples))
    np.testing.assert_array_equal(after[~logo_mask()], clean[~logo_mask()])
    assert psnr(clean, after, data_range=255, inside=logo_mask()) > 20
    assert psnr(clean, marked(samples), data_range=255, inside=logo_mask()) < 12


@pytest.mark.parametrize("name", ["inpaint-telea-found", "inpaint-ns-found"])
def test_found_mask_is_widened_over_the_edge_that_was_missed(name: str) -> None:
    after = done(name, marked(1))
    assert psnr(smooth(1), after, data_range=255, inside=logo_mask()) > 20
    missed = ATTACKS["inpaint-telea"].on(marked(1), mask=careful(marked(1))[1])
    assert (missed[10, 8:30] == 255).all()
    assert (after[10, 8:30] != 255).all()


@pytest.mark.parametrize(("name", "method"), [("telea", "INPAINT_TELEA"), ("ns", "INPAINT_NS")])
def test_inpainting_is_the_method_it_is_named_after(name: str, method: str) -> None:
    holes = logo_mask().astype(np.uint8)
    expected = cv2.inpaint(noisy(3), holes, 3, getattr(cv2, method))
    np.testing.assert_array_equal(done(f"inpaint-{name}", noisy(3)), expected)


@pytest.mark.parametrize("everything", [True, False])
def test_nothing_can_be_inpainted_from_nothing(everything: bool) -> None:
    mask = np.full((ROWS, COLUMNS), everything)
    np.testing.assert_array_equal(ATTACKS["inpaint-ns"].on(noisy(1), mask=mask), noisy(1))


def test_removal_keeps_the_pictures_own_pixels_outside_what_was_found() -> None:
    picture = noisy(3)
    after = done("removal", picture)
    edge = np.zeros((ROWS, COLUMNS), bool)
    edge[10:23, 8:31] = True  # what was found, and one pixel around it
    np.testing.assert_array_equal(after[~edge], picture[~edge])
    np.testing.assert_array_equal(after[edge], 255 - picture[edge])
    np.testing.assert_array_equal(done("removal-whole", picture), 255 - picture)


@pytest.mark.parametrize("first", ["inpaint-telea", "removal"])
def test_chain_is_one_after_the_other(first: str) -> None:
    picture = noisy(3)
    expected = ATTACKS["jpeg-75"].on(done(first, picture))
    np.testing.assert_array_equal(done(f"{first}-jpeg-75", picture), expected)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("layout", "fit"), [("NCHW", "stretch"), ("NHWC", "pad")])
def test_removal_network_works_at_its_own_size(
    tmp_path: Path, layout: str, fit: str, samples: int
) -> None:
    picture = marked(samples)
    picture[:, 36:] //= 8  # dark: no logo there
    # A third of its brightness, and the mask of what is bright.
    network = Surrogate(write_remover(tmp_path / "third", 1 / 3, 32, layout, fit), CPU)
    shown, found = removal_network(network, 0.69)(picture)
    inner = np.s_[13:19, 11:27]
    assert shown.shape == picture.shape
    assert found[inner].all()
    assert not found[:, 40:].any()
    np.testing.assert_allclose(shown[inner], 85, atol=1)
    np.testing.assert_allclose(shown[5:-5, 42:-5], picture[5:-5, 42:-5] / 3, atol=3)


def test_removal_takes_a_model_of_that_role(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    with pytest.raises(ModelUnusable, match="no removal network"):
        removal_network(Surrogate(tmp_path / "toy", CPU))


# --- The adaptive attack ------------------------------------------------------------------------


def protected(count: int = 24, seed: int = 2) -> tuple[list[Picture], np.ndarray]:
    """Reddish pictures of class 0 and greenish ones of class 1, which the toy model confuses."""
    labels = np.arange(count) % 2
    pictures = []
    for label in labels:
        picture = rng(seed + len(pictures)).integers(60, 180, (11, 9, 3)).astype(np.uint8)
        picture[..., label] += 60
        pictures.append(picture)
    return pictures, labels


def toy(folder: Path) -> Surrogate:
    """It starts sure that all is of class 0."""
    write_convolutional_model(folder / "toy", bias=4.0)
    return Surrogate(folder / "toy", CPU)


@pytest.mark.parametrize("how", ["head", "all"])
def test_infringer_learns_from_protected_pictures(tmp_path: Path, how: str) -> None:
    surrogate = toy(tmp_path)
    pictures, labels = protected()
    settings = {"epochs": 12, "rate": 0.05, "batch": 7} if how == "all" else {}
    adapted = fine_tuned(surrogate, "toy", pictures, labels, rng(), how=how, **settings)
    others, truth = protected(seed=900)
    shares = adapted.probabilities(others)
    assert (shares.shape, shares.dtype) == ((24, 2), np.float32)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (adapted.how, adapted.pictures, adapted.fit) == (how, 24, 1.0)
    assert (shares.argmax(axis=1) == truth).mean() > 0.9


def test_training_leaves_the_surrogate_as_it_was(tmp_path: Path) -> None:
    import torch

    surrogate = toy(tmp_path)
    view = torch.full((1, 3, SIDE, SIDE), 0.4)
    before = surrogate.differentiable(view)["answer"].clone()
    settings = {"epochs": 2, "rate": 0.05}
    first = fine_tuned(surrogate, "toy", *protected(), rng(), how="all", **settings)
    np.testing.assert_array_equal(surrogate.differentiable(view)["answer"], before)
    again = fine_tuned(surrogate, "toy", *protected(), rng(), how="all", **settings)
    asked, _ = protected(5, 70)
    np.testing.assert_array_equal(first.probabilities(asked), again.probabilities(asked))
    never = fine_tuned(surrogate, "toy", *protected(), rng(), how="all", epochs=0)
    assert np.abs(never.probabilities(asked) - first.probabilities(asked)).max() > 0.01
    with torch.no_grad():
        assert never.probabilities(asked)[:, 0].min() > 0.5


@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_fresh_head_is_scikit_learns(penalty: float) -> None:
    features = rng(4).normal(size=(50, 6))
    targets = np.where(features[:, 0] + rng(5).normal(0, 1, 50) > 0, 1, 2 * (features[:, 1] > 0))
    theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=2000).fit(features, targets)
    weights, biases = logistic_regression(features, targets, 3, penalty)
    scores = features @ weights + biases
    ours = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=1e-4)


def test_feature_that_never_varies_is_left_out(tmp_path: Path) -> None:
    """Grey of one level: all features are the same, and nothing is learned, without a NaN."""
    pictures = [np.full((SIDE, SIDE, 1), 90, np.uint8)] * 4
    adapted = fine_tuned(toy(tmp_path), "toy", pictures, [0, 1, 0, 1], rng())
    np.testing.assert_allclose(adapted.probabilities(pictures), 0.5, atol=1e-6)


def test_model_without_features_has_no_place_for_a_head(tmp_path: Path) -> None:
    write_flat_model(tmp_path / "flat", layout="NCHW", channels=3, kind="logits")
    with pytest.raises(ModelUnusable, match="names no feature tensor"):
        fine_tuned(Surrogate(tmp_path / "flat", CPU), "toy", *protected(), rng())


def test_training_that_goes_astray_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="astray"):
        fine_tuned(
            toy(tmp_path), "toy", *protected(), rng(), how="all", epochs=20, rate=1e30, batch=4
        )


@pytest.mark.parametrize("labels", [[0, 1], [0] * 24, [0, 2] * 12, [0, -1] * 12, [0.0, 1.0] * 12])
def test_labels_have_to_belong_to_the_pictures(tmp_path: Path, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        fine_tuned(toy(tmp_path), "toy", protected()[0], labels, rng())
