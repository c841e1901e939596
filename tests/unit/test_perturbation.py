"""δ is what it should be where the answer is known, and is optimised on what will be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    SIDE,
    noisy_logo,
    opaque_logo,
    tone_of,
    write_convolutional_model,
    write_flat_model,
)
from strangers import write_remover

from miad_cli.errors import ModelUnusable
from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models.bank import Surrogate
from miad_cli.models.manifest import InputSpec
from miad_cli.models.session import Device
from miad_cli.models.view import view_for
from miad_cli.watermark.blend import Mark, blend
from miad_cli.watermark.delta import Delta, add, grid_size
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.onlookers import Onlooker
from miad_cli.watermark.perturbation import (
    Attack,
    Perturbed,
    Target,
    Weights,
    ascend,
    margin,
    normalize,
    perturb,
    perturb_many,
)
from miad_cli.watermark.scenes import Scene, scene_of, seen_again, staged

PLAIN = Attack(shaped=False, transforms=False, steps=6, coarse=False)
"""Nothing at random: six steps of 2 reach any corner of ±8."""


def grey_image(level: int = 128, size: tuple[int, int] = (SIDE, SIDE), **settings) -> MedicalImage:
    stored = np.full((1, *size, 1), level, np.uint8)
    return MedicalImage(stored, (0, 255), Window(0, 255), **settings)


def noisy_image(
    rows: int, columns: int, seed: int = 0, samples: int = 1, frames: int = 1, **settings
) -> MedicalImage:
    stored = np.random.default_rng(seed).integers(0, 4096, (frames, rows, columns, samples), "i4")
    return MedicalImage(stored, (0, 4095), Window(300, 3500), **settings)


def bare(image: MedicalImage, frame: int = 0, boxes: tuple[Box, ...] = ()) -> Scene:
    return scene_of(image, frame, None, boxes, tone_of(image))


def made(scene, surrogates, attack: Attack = PLAIN, label: int | None = 0, **settings) -> Perturbed:
    given = {"removers": (), "task": "toy", "generator": np.random.default_rng(3), **settings}
    return perturb(scene, surrogates, label=label, attack=attack, **given)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Surrogate:
    """Two logits, each a weighted sum of the pixels."""
    folder = tmp_path_factory.mktemp("linear") / "flat"
    write_flat_model(folder, layout="NCHW", channels=3, kind="logits")
    return Surrogate(folder, Device())


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> Surrogate:
    folder = tmp_path_factory.mktemp("featured") / "convolutional"
    write_convolutional_model(folder)
    return Surrogate(folder, Device())


def pull(surrogate: Surrogate) -> np.ndarray:
    """(rows, columns): what the margin of class 1 over class 0 gains with each grey pixel."""
    _, _, weights = weights_of(surrogate)
    return (weights[:, 1] - weights[:, 0]).reshape(3, SIDE, SIDE).sum(axis=0)


def weights_of(surrogate: Surrogate) -> tuple[float, float, np.ndarray]:
    """The scores of black, and the weights (pixels, classes), asked of the model itself."""
    black = np.zeros((1, 3, SIDE, SIDE), np.float32)
    lit = np.eye(black.size, dtype=np.float32).reshape(-1, 3, SIDE, SIDE)
    scores = surrogate.session.run(np.concatenate([black, lit]))["answer"]
    return scores[0, 0], scores[0, 1], scores[1:] - scores[0]


# --- The ascent -------------------------------------------------------------------------------


def test_linear_model_is_answered_by_the_corner_that_its_weights_point_to(
    linear: Surrogate,
) -> None:
    """The margin of a linear model is largest at δ = ε sign(w), whatever the picture."""
    found = made(bare(grey_image()), [linear])
    np.testing.assert_array_equal(found.delta.grid[..., 0], 8 * np.sign(pull(linear)))
    against = made(bare(grey_image()), [linear], label=1)
    np.testing.assert_array_equal(against.delta.grid, -found.delta.grid)


def test_losses_are_the_margins_before_each_step(linear: Surrogate) -> None:
    found = made(bare(grey_image(100)), [linear])
    weights = pull(linear)
    expected = [
        float((weights * (100 + np.sign(weights) * min(2 * step, 8)) / 255).sum())
        for step in range(6)
    ]
    np.testing.assert_allclose(found.losses, expected, atol=1e-4)
    assert found.gradients == 6


def test_momentum_carries_on_against_a_change_of_mind() -> None:
    import torch

    slopes = [1.0, 1.0, -5.0, -5.0, -5.0]
    wide = torch.full((1, 1, 1, 1), 100.0)

    def course(momentum: float, steps: int) -> float:
        attack = Attack(momentum=momentum, steps=steps, step_size=2)
        return float(
            ascend(lambda _, step: wide * slopes[step], 0 * wide, -wide, wide, attack).item()
        )

    assert [course(0.0, steps) for steps in (2, 3, 5)] == [4, 2, -2]
    assert [course(1.0, steps) for steps in (2, 3, 4, 5)] == [4, 6, 6, 4]


def quiet_and_loud(root: Path) -> tuple[list[Surrogate], list[np.ndarray]]:
    """Two linear models, the second with its input scaled up, and what pulls at each."""
    models, pulls = [], []
    for seed, extra in ((1, ""), (2, "range = [0.0, 1000.0]")):
        folder = root / f"flat{seed}"
        write_flat_model(folder, layout="NCHW", channels=3, kind="logits", seed=seed, extra=extra)
        models.append(Surrogate(folder, Device()))
        slope = pull(models[-1])
        pulls.append(slope / np.abs(slope).mean())
    return models, pulls


def test_every_picture_and_model_counts_the_same(tmp_path: Path) -> None:
    import torch

    slopes = torch.tensor([[1.0, -3.0], [1e-6, 3e-6]]).view(2, 1, 1, 2)
    assert normalize(slopes).flatten(1).tolist() == [
        pytest.approx([0.5, -1.5]),
        pytest.approx([0.5, 1.5]),
    ]
    # A model that shouts, since its input is scaled up, does not drown the other.
    models, pulls = quiet_and_loud(tmp_path)
    found = made(bare(grey_image()), models).delta.grid[..., 0]
    np.testing.assert_array_equal(np.sign(found), np.sign(pulls[0] + pulls[1]))
    assert (np.sign(found) != np.sign(pulls[1])).any()


def test_margin_is_the_best_other_class_less_the_label() -> None:
    import torch

    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, -1.0, 5.0]])
    assert margin(scores, torch.tensor([0, 1, 2])).tolist() == [-1.0, 2.0, -5.0]


# --- Bounds -----------------------------------------------------------------------------------


def test_nothing_in_boxes_nothing_beyond_black_or_white(linear: Surrogate) -> None:
    stored = np.random.default_rng(5).integers(0, 256, (1, SIDE, SIDE, 1), np.uint8)
    stored[0, 0], stored[0, 1] = 0, 255
    image = MedicalImage(stored, (0, 255), Window(0, 255))
    grid = made(bare(image, boxes=(Box(2, 3, 4, 2),)), [linear]).delta.grid.astype(int)
    moved = stored[0].astype(int) + grid
    assert not grid[3:5, 2:6].any()
    assert grid[5:].any()
    assert (grid[0] >= 0).all()
    assert (grid[1] <= 0).all()
    assert grid[0].any()
    assert moved.min() >= 0
    assert moved.max() <= 255


def test_what_cannot_change_is_left_out(linear: Surrogate) -> None:
    stored = np.full((1, SIDE, SIDE, 1), 120, np.int16)
    stored[0, 0], stored[0, 1], stored[0, 2] = -2000, 10, 300
    image = MedicalImage(stored, (-2048, 2047), Window(50, 250), padding=(-2000, -2000))
    grid = made(bare(image), [linear]).delta.grid
    assert not grid[:3].any()
    assert grid[3:].all()


def test_flat_ground_is_spared_where_bounds_are_shaped(linear: Surrogate) -> None:
    stored = np.full((1, 40, 40, 1), 128, np.uint8)
    stored[0, :, 20:, 0] = np.random.default_rng(1).integers(60, 200, (40, 20))
    image = MedicalImage(stored, (0, 255), Window(0, 255))
    grid = made(bare(image), [linear], replace(PLAIN, shaped=True, epsilon=12)).delta.grid
    assert not grid[:, :14].any()
    assert np.abs(grid[:, 26:].astype(int)).max() == 12


def test_a_cell_holds_no_more_than_eight_bits(linear: Surrogate) -> None:
    grid = made(
        bare(grey_image()), [linear], replace(PLAIN, epsilon=1000, step_size=500)
    ).delta.grid
    assert {*np.abs(grid.astype(int)).ravel().tolist()} == {127}


def test_what_it_begins_with_is_kept_within_the_bounds(linear: Surrogate) -> None:
    start = Delta(np.arange(-32, 32, dtype=np.int8).reshape(SIDE, SIDE, 1))
    attack = replace(PLAIN, steps=0)
    found = made(bare(grey_image()), [linear], attack, start=start)
    np.testing.assert_array_equal(found.delta.grid, start.grid.clip(-8, 8))
    assert (found.losses, found.gradients) == ((), 0)


# --- What is optimised is what will be written ------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(60, 47), (260, 310)])
def test_canvas_is_the_written_picture(
    rows: int, columns: int, inverted: bool, samples: int
) -> None:
    """δ and logo laid on in tensors, against both laid into the stored values and shrunk."""
    import torch

    image = noisy_image(rows, columns, samples=samples, inverted=inverted)
    even = 1200 + image.stored // 4  # mid-grey: nothing reaches the window's ends
    even[:, :5, :5] = 0
    image = replace(image, stored=even, padding=(0, 0))
    logo = opaque_logo(21, 33, (250, 20, 90))
    logo[..., 3] = np.linspace(0, 255, 33)
    # Means over cells do not multiply: at the edge of the padding only whole pixels agree.
    mark, tone = Mark(*((1, 2) if rows < 224 else (40, 30)), 180, logo), tone_of(image)
    height, width = grid_size(rows, columns)
    grid = np.random.default_rng(4).integers(-12, 13, (height, width, samples)).astype(np.int8)
    scene = scene_of(image, 0, mark, (), tone)
    written = blend(add(image.stored, Delta(grid), tone), mark, tone)
    spec = InputSpec(tensor="canvas", rows=height, columns=width)
    expected = view_for(spec, rows, columns).of(image.windowed(written[0]))
    cpu = torch.device("cpu")
    down, across = seen_again(rows, columns, cpu)
    planes = torch.from_numpy(grid.transpose(2, 0, 1).astype(np.float32))
    ours = staged(scene, cpu).after(down @ planes @ across.T / 255).expand(3, -1, -1).numpy()
    differing = np.abs(ours - expected)
    assert differing.mean() < 0.002
    assert differing.max() < (0.003 if rows < 224 else 0.03)


def test_logo_hides_what_is_below_it(linear: Surrogate) -> None:
    image = grey_image()
    covering = Mark(0, 0, 255, opaque_logo(SIDE // 2, SIDE))
    grid = made(scene_of(image, 0, covering, (), tone_of(image)), [linear]).delta.grid
    assert not grid[: SIDE // 2].any()
    assert grid[SIDE // 2 :].all()


@pytest.mark.parametrize(("layout", "channels"), [("NCHW", 3), ("NHWC", 1), ("NHWC", 3)])
def test_models_are_fed_as_for_queries(tmp_path: Path, layout: str, channels: int) -> None:
    import torch

    extra = "range = [0.0, 255.0]\nmean = [10.0]\nstd = [20.0]"
    extra += '\ncolours = "BGR"' if channels == 3 else ""
    write_flat_model(
        tmp_path / "flat", layout=layout, channels=channels, kind="logits", extra=extra
    )
    surrogate = Surrogate(tmp_path / "flat", Device())
    pictures = np.random.default_rng(0).random((2, 3, 20, 30)).astype(np.float32)
    onlooker = Onlooker(surrogate, (20, 30), torch.device("cpu"))
    view = view_for(surrogate.manifest.input, 20, 30)
    seen = np.stack([view.of(one.transpose(1, 2, 0)) for one in pictures])
    expected = surrogate.session.run(seen)["answer"]
    answers = onlooker.answers(torch.from_numpy(pictures))
    np.testing.assert_allclose(answers["answer"].numpy(), expected, rtol=1e-4, atol=1e-2)


# --- Several pictures, several models ---------------------------------------------------------


def test_pictures_of_a_batch_come_out_as_they_would_alone(linear: Surrogate) -> None:
    images = [noisy_image(24, 20, seed) for seed in range(3)]
    marks = [Mark(seed, 2, 150, noisy_logo(6, 9, seed)) for seed in range(3)]
    scenes = [
        scene_of(image, 0, mark, (), tone_of(image))
        for image, mark in zip(images, marks, strict=True)
    ]
    attack = Attack(steps=7, shaped=False)
    together = perturb_many(
        [Target((one,), label) for one, label in zip(scenes, (0, 1, 0), strict=True)],
        [linear], (), "toy", attack, np.random.default_rng(8),
    )  # fmt: skip
    for scene, label, among in zip(scenes, (0, 1, 0), together, strict=True):
        alone = made(scene, [linear], attack, label, generator=np.random.default_rng(8))
        # A sign may tip where two sums differ in their last bit.
        assert (alone.delta.grid == among.delta.grid).mean() > 0.98
        np.testing.assert_allclose(alone.losses, among.losses, rtol=0.02, atol=0.02)
    assert (together[0].delta.grid != together[1].delta.grid).mean() > 0.2


def test_the_generator_decides(linear: Surrogate) -> None:
    scene, attack = bare(noisy_image(20, 20)), Attack(steps=4, shaped=False)
    first, again, other = (
        made(scene, [linear], attack, generator=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.delta.grid, again.delta.grid)
    assert first.losses == again.losses
    assert (first.delta.grid != other.delta.grid).any()


def test_frames_that_share_a_delta_share_its_bounds(linear: Surrogate) -> None:
    stored = np.full((2, SIDE, SIDE, 1), 128, np.uint8)
    stored[0, :2], stored[1, 2:4] = 0, 3
    image = MedicalImage(stored, (0, 255), Window(0, 255))
    found = made([bare(image, 0), bare(image, 1)], [linear])
    expected = 8 * np.sign(pull(linear))
    expected[:2] = expected[:2].clip(0)
    expected[2:4] = expected[2:4].clip(-3)
    np.testing.assert_array_equal(found.delta.grid[..., 0], expected)
    levels = [found.losses[turn] - found.losses[turn - 2] for turn in (2, 3)]
    assert levels[0] > 0  # each frame, in its turn, further than the turn before
    assert levels[1] > 0


def test_some_models_are_asked_in_a_step_and_a_remover_now_and_then(
    linear: Surrogate, featured: Surrogate, tmp_path: Path
) -> None:
    scene = bare(grey_image(100))
    attack = replace(PLAIN, steps=7, remover_every=3)
    models, removers = [linear, featured], [darkener(tmp_path, 0.5)]
    assert made(scene, models, attack).gradients == 14
    assert made(scene, models, replace(attack, models_per_step=1)).gradients == 7
    assert made(scene, models, attack, removers=removers).gradients == 14 + 3
    without = replace(attack, weights=Weights(disrupt=0))
    assert made(scene, models, without, removers=removers).gradients == 14


def test_features_move_away_where_nothing_is_known(featured: Surrogate) -> None:
    attack = Attack(steps=6, shaped=False, transforms=False)
    found = made(bare(grey_image()), [featured], attack, None, task=None)
    assert found.losses[0] < 0.02
    assert found.losses[-1] > 0.04
    assert np.abs(found.delta.grid.astype(int)).mean() > 6


# --- Removal networks -------------------------------------------------------------------------


def darkener(root: Path, scale: float) -> Surrogate:
    """A removal network that multiplies the picture by `scale` and takes what is bright for the
    logo."""
    return Surrogate(write_remover(root / "off", scale, SIDE), Device())


@pytest.mark.parametrize(
    ("scale", "weights", "expected"),
    [
        (0.5, Weights(disrupt=1), -8),  # |I - (I + δ) / 2|: the darker the farther
        (1.5, Weights(disrupt=1), 8),
        (
            1.5,
            Weights(disrupt=0, inerase=1),
            -8,
        ),  # |I_w - 1.5 I_w| and the mask: the darker the less
        (-9.0, Weights(disrupt=0, inerase=1, gamma=0), -8),  # the mask alone
    ],
)
def test_removal_networks_are_led_astray(
    tmp_path: Path, scale: float, weights: Weights, expected: int
) -> None:
    attack = replace(PLAIN, remover_every=1, weights=weights)
    network = darkener(tmp_path, scale)
    found = made(bare(grey_image()), [], attack, None, task=None, removers=[network])
    assert (found.delta.grid == expected).all()


def test_a_removed_logo_is_compared_with_the_picture_before(tmp_path: Path) -> None:
    """Eq. 3 at a network that removes nothing: |I - I_w| grows where δ goes the logo's way."""
    image = grey_image()
    mark = Mark(0, 0, 128, opaque_logo(SIDE, SIDE, (255, 255, 255)))
    attack = replace(PLAIN, remover_every=1)
    network = darkener(tmp_path, 1.0)
    scene = scene_of(image, 0, mark, (), tone_of(image))
    found = made(scene, [], attack, None, task=None, removers=[network])
    assert (found.delta.grid == 8).all()


# --- What cannot be done ----------------------------------------------------------------------


def test_models_without_gradients_are_refused(featured: Surrogate, linear: Surrogate) -> None:
    with pytest.raises(ModelUnusable, match="gradients"):
        made(bare(grey_image()), [])
    with pytest.raises(ModelUnusable, match="gradients"):
        made(bare(grey_image()), [linear], label=None, task=None)  # it names no features


def test_what_does_not_go_together_is_refused(linear: Surrogate) -> None:
    with pytest.raises(ValueError, match="one size"):
        made([bare(grey_image()), bare(grey_image(size=(SIDE, 9)))], [linear])
    with pytest.raises(ValueError, match="label"):
        made(bare(grey_image()), [linear], label=None)
    with pytest.raises(ValueError, match="another size"):
        made(bare(grey_image()), [linear], start=Delta(np.zeros((4, 4, 1), np.int8)))


def test_a_window_beyond_what_the_file_holds_makes_steps_smaller() -> None:
    stored = np.full((1, 20, 20, 1), 100, np.uint8)
    wide = MedicalImage(stored, (0, 255), Window(0, 1023))
    scene = bare(wide)
    assert scene.unit == pytest.approx(255 / 1023)
    assert bare(MedicalImage(stored, (0, 255), Window(0, 255))).unit == 1
