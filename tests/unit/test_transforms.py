"""Transforms do what they are called, to any picture of a batch alike, and gradients pass."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from miad_cli.watermark import transforms
from miad_cli.watermark.transforms import TRANSFORMS, blurred, compressed, draw, rounded

ROWS, COLUMNS = 40, 28


def soft_pictures(count: int = 2, samples: int = 3, seed: int = 0):
    """(count, samples, rows, columns) in 0.2..0.8, without fine detail."""
    import torch

    coarse = torch.rand(count, samples, 5, 4, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(coarse, (ROWS, COLUMNS), mode="bicubic")
    return (0.2 + 0.6 * large).clamp(0.2, 0.8)


def drawn_with(seed: int):
    import torch

    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("samples", [1, 3])
def test_pictures_keep_their_shape_and_scale_and_gradients_pass(name: str, samples: int) -> None:
    import torch

    pictures = soft_pictures(samples=samples).requires_grad_()
    made = TRANSFORMS[name](drawn_with(1))(pictures)
    assert made.shape == pictures.shape
    assert made.min() >= -1e-5
    assert made.max() <= 1 + 1e-5
    (gradient,) = torch.autograd.grad(made.square().sum(), pictures)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_picture_comes_out_the_same_in_any_company(name: str) -> None:
    import torch

    pictures = soft_pictures(3)
    transform = TRANSFORMS[name](drawn_with(4))
    together, alone = transform(pictures), transform(pictures[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_line_of_pixels_is_a_picture_too(name: str) -> None:
    import torch

    for shape in ((1, 1, 1, 50), (1, 3, 50, 1), (2, 1, 2, 3)):
        made = TRANSFORMS[name](drawn_with(2))(torch.full(shape, 0.5))
        assert made.shape == shape
        assert made.isfinite().all()


@pytest.mark.parametrize("name", sorted({*TRANSFORMS} - {"unchanged", "eight-bits"}))
def test_the_generator_decides(name: str) -> None:
    pictures = soft_pictures(1)
    first, again, other = (TRANSFORMS[name](drawn_with(seed))(pictures) for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


def test_draw_comes_to_every_transform() -> None:
    generator, pictures = drawn_with(0), soft_pictures(1)
    met = {name: 0 for name in TRANSFORMS}
    watched = {name: _counting(name, maker, met) for name, maker in TRANSFORMS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "TRANSFORMS", watched)
        made = [draw(generator) for _ in range(120)]
    assert min(met.values()) > 0
    assert made[0](pictures).shape == pictures.shape


def _counting(name: str, maker, met: dict[str, int]):
    def made(generator):
        met[name] += 1
        return maker(generator)

    return made


# --- Each of them -----------------------------------------------------------------------------


@pytest.mark.parametrize(("quality", "samples"), [(50, 1), (90, 1), (75, 3)])
def test_jpeg_is_near_what_pillow_writes(quality: int, samples: int) -> None:
    picture = soft_pictures(1, samples)[0].permute(1, 2, 0).numpy()
    texture = np.random.default_rng(2).normal(0, 0.03, (ROWS, COLUMNS, 1))
    pixels = np.round((picture + texture).clip(0, 1) * 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file)).reshape(pixels.shape).astype(int)
    ours = compressed(_batch(pixels), quality)[0].permute(1, 2, 0).numpy() * 255
    lost = np.abs(pixels.astype(int) - expected).mean()
    assert lost > 0.5  # or the next line would prove nothing
    assert np.abs(ours - expected).mean() < (0.2 if samples == 1 else 0.5) * lost


def _batch(pixels: np.ndarray):
    import torch

    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def test_blur_is_the_bell_of_its_width() -> None:
    import torch

    dot = torch.zeros(1, 1, 21, 21)
    dot[0, 0, 10, 10] = 1
    spread = blurred(dot, 1.1)[0, 0].double()
    away = torch.arange(21.0, dtype=torch.float64) - 10
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float((spread.sum(dim=0) * away.square()).sum()) == pytest.approx(1.21, abs=0.05)
    torch.testing.assert_close(spread, spread.T)


def test_rounding_passes_the_gradient_through() -> None:
    import torch

    values = torch.tensor([0.2, 1.7, -3.4], requires_grad=True)
    whole = rounded(values)
    assert whole.tolist() == [0.0, 2.0, -3.0]
    (gradient,) = torch.autograd.grad((whole * torch.tensor([1.0, 2.0, 3.0])).sum(), values)
    assert gradient.tolist() == [1.0, 2.0, 3.0]


def test_eight_bits_are_255ths() -> None:
    made = TRANSFORMS["eight-bits"](drawn_with(0))(soft_pictures(1)) * 255
    assert float((made - made.round()).abs().max()) < 1e-3


def test_shift_moves_whole_pixels_and_brings_in_black() -> None:
    pictures = soft_pictures(1, 1)
    for seed in range(8):
        made = TRANSFORMS["shift"](drawn_with(seed))(pictures)[0, 0]
        lit = made > 0
        rows, columns = int(lit.any(dim=1).sum()), int(lit.any(dim=0).sum())
        kept = made[lit.any(dim=1)][:, lit.any(dim=0)]
        top = 0 if lit[0].any() else ROWS - rows
        left = 0 if lit[:, 0].any() else COLUMNS - columns
        source = pictures[0, 0, ROWS - rows - top :, COLUMNS - columns - left :]
        assert (kept == source[:rows, :columns]).all()
        assert rows >= 0.9 * ROWS


def test_turn_is_about_the_centre_in_square_pixels() -> None:
    import torch

    picture = torch.zeros(1, 1, 31, 61)
    picture[0, 0, 15, 40] = 1  # ten pixels right of the centre
    made = transforms._turned(picture, 90.0)[0, 0]
    assert divmod(int(made.argmax()), 61) in {(5, 30), (25, 30)}
    larger = transforms._turned(picture, 0.0, 1.5)[0, 0]
    assert divmod(int(larger.argmax()), 61) == (15, 45)


def test_shrunk_pictures_lie_on_black() -> None:
    import torch

    white = torch.ones(1, 1, ROWS, COLUMNS)
    shares = []
    for seed in range(6):
        made = TRANSFORMS["resize-and-pad"](drawn_with(seed))(white)
        shares.append(float(made.mean()))
        assert set(made.unique().round(decimals=4).tolist()) <= {0.0, 1.0}
    assert min(shares) > 0.5
    assert max(shares) - min(shares) > 0.1


def test_shuffled_blocks_hold_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(transforms, "_turned", lambda pictures, _: pictures)
    pictures = torch.arange(float(ROWS * COLUMNS)).view(1, 1, ROWS, COLUMNS)
    made = [TRANSFORMS["shuffle"](drawn_with(seed))(pictures) for seed in range(8)]
    assert all((one.flatten().sort().values == pictures.flatten()).all() for one in made)
    assert sum(bool((one != pictures).any()) for one in made) > 3


def test_cosine_transform_is_orthonormal() -> None:
    import torch

    cosines = transforms._cosines(13, torch.device("cpu"))
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(13), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.4, 0.8, 1.2])
def test_blur_is_that_of_scikit_image(sigma: float) -> None:
    from skimage.filters import gaussian

    (picture,) = soft_pictures(1)
    # scikit-image's bell ends at a whole number of pixels, as ours does.
    reach = int(np.ceil(3 * sigma)) / sigma
    expected = gaussian(picture.numpy(), sigma, mode="nearest", truncate=reach, channel_axis=0)
    np.testing.assert_allclose(blurred(picture[None], sigma)[0].numpy(), expected, atol=1e-5)
