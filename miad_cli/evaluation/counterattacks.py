"""What an infringer would try on protected pictures; to learn from them is `adaptive`.

Pictures are as they are shown: (rows, columns, 1 or 3) uint8, grey or RGB. The same picture gives
the same result every time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.evaluation.metrics import widened
from miad_cli.evaluation.pixels import Float, Picture, rounded, shares, windowed
from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Surrogate
from miad_cli.models.view import view_for

Mask = NDArray[np.bool_]

Remover = Callable[[Picture], tuple[Picture, Mask]]
"""Takes a picture; gives the whole picture as a network would have it, and where it takes pixels
for a logo (rows, columns), both at the picture's own size."""

Needs = Literal["nothing", "mask", "remover"]

TV_WEIGHT, TV_ROUNDS = 0.1, 100
NLM_STRENGTH = 8
"""What non-local means takes for noise: differences of about the largest δ, in grey levels."""
INPAINT_RADIUS = 3


@dataclass(frozen=True, eq=False)
class Scene:
    """What the infringer has: the picture and, for some attacks, the logo's mask (rows, columns)
    or a removal network."""

    picture: Picture
    mask: Mask | None = None
    remover: Remover | None = None


@dataclass(frozen=True)
class Counterattack:
    """One thing to try.

    `needs` says what `Scene` has to hold beside the picture. `moves` is true where pixels change
    their place, so that no pixel-wise figure (PSNR, SSIM) means anything afterwards.
    """

    name: str
    title: str
    needs: Needs
    apply: Callable[[Scene], Picture]
    moves: bool = False

    def on(
        self, picture: Picture, *, mask: ArrayLike | None = None, remover: Remover | None = None
    ) -> Picture:
        """The picture after the attack: same shape, uint8. What is not needed is not looked at.

        Raises:
            ValueError: the picture is none, or the mask or the remover is missing or does not fit.
            UsageError: the extra `report` is not installed.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
            raise ValueError(f"no 8-bit picture: {picture.shape} {picture.dtype}")
        marked = np.asarray(mask) != 0 if self.needs == "mask" and mask is not None else None
        if self.needs == "mask" and (marked is None or marked.shape != picture.shape[:2]):
            raise ValueError(f"{self.name} takes the logo's mask, of the picture's size")
        if self.needs == "remover" and remover is None:
            raise ValueError(f"{self.name} takes a removal network")
        return np.ascontiguousarray(self.apply(Scene(picture, marked, remover)))


def counterattacks() -> Mapping[str, Counterattack]:
    """Every counterattack by name, in the order of the report."""
    telea, navier_stokes = partial(_inpainted, "telea"), partial(_inpainted, "navier-stokes")
    listed = (
        _simple("as-shown", "8 bits through the display window, nothing else", np.copy),
        _simple("jpeg-95", "JPEG, quality 95", partial(_coded, form="JPEG", quality=95)),
        _simple("jpeg-75", "JPEG, quality 75", partial(_coded, form="JPEG", quality=75)),
        _simple("jpeg-50", "JPEG, quality 50", partial(_coded, form="JPEG", quality=50)),
        _simple("webp-75", "WebP, quality 75", partial(_coded, form="WEBP", quality=75)),
        _simple("half-size", "Half the size and back", _half_size),
        _simple("crop-90", "Centre of 90 % a side, brought back to size", _cropped, moves=True),
        _simple("rotate-5", "Rotated by 5 degrees", partial(_rotated, degrees=5), moves=True),
        _simple("rotate-15", "Rotated by 15 degrees", partial(_rotated, degrees=15), moves=True),
        _simple("blur", "Gaussian blur, sigma 1", _blur),
        _simple("median", "Median of 3 x 3", _median),
        _simple("bilateral", "Bilateral filter", _bilateral),
        _simple("non-local-means", "Non-local means", _non_local_means),
        _simple("total-variation", "Total variation", _total_variation),
        _simple("bits-5", "5 bits a channel", _five_bits),
        _simple("brighter", "Brightness + 10 %", partial(_levels, gain=1.0, offset=25.5)),
        _simple("darker", "Brightness - 10 %", partial(_levels, gain=1.0, offset=-25.5)),
        _simple("window-narrow", "Window of 80 %", partial(_levels, gain=1.25, offset=-31.875)),
        _simple("window-wide", "Window of 125 %", partial(_levels, gain=0.8, offset=25.5)),
        Counterattack("inpaint-telea", "Inpainting (Telea), true mask", "mask", telea),
        Counterattack("inpaint-ns", "Inpainting (Navier-Stokes), true mask", "mask", navier_stokes),
        Counterattack(
            "inpaint-telea-found", "Inpainting (Telea), the network's mask", "remover", telea
        ),
        Counterattack(
            "inpaint-ns-found",
            "Inpainting (Navier-Stokes), the network's mask",
            "remover",
            navier_stokes,
        ),
        Counterattack("removal", "Removal network, inside its mask", "remover", _removed),
        Counterattack(
            "removal-whole", "Removal network, its whole picture", "remover", _removed_whole
        ),
        Counterattack(
            "inpaint-telea-jpeg-75",
            "Inpainting (Telea), true mask, then JPEG 75",
            "mask",
            partial(_then_jpeg, telea),
        ),
        Counterattack(
            "removal-jpeg-75",
            "Removal network, inside its mask, then JPEG 75",
            "remover",
            partial(_then_jpeg, _removed),
        ),
    )
    return MappingProxyType({one.name: one for one in listed})


def as_shown(image: MedicalImage, frame: int | None = None) -> Picture:
    """A frame (default: the key frame) through its display window: (rows, columns, 1 or 3) uint8.

    How pictures of more bits come to be attacked, and an attack of its own: what a 16-bit picture
    holds between two of 256 levels, or outside the window, is gone.
    """
    shown = image.windowed(image.stored[image.key_frame if frame is None else frame])
    samples = 1 if image.is_grey else 3
    return np.rint(shown[..., :samples] * 255).astype(np.uint8)


# --- Everyday processing ------------------------------------------------------------------------


def _simple(
    name: str, title: str, do: Callable[[Picture], Picture], moves: bool = False
) -> Counterattack:
    """An attack that looks at nothing but the picture."""
    return Counterattack(name, title, "nothing", lambda scene: do(scene.picture), moves)


def _coded(picture: Picture, form: str, quality: int) -> Picture:
    """Through a lossy file. Colour is coded at half the resolution (4:2:0), as is usual; grey
    stays grey in JPEG, and is colour without colour in WebP, which has no grey."""
    from PIL import Image

    stream = io.BytesIO()
    _pillow(picture).save(stream, form, quality=quality)
    with Image.open(io.BytesIO(stream.getvalue())) as decoded:
        return _array(decoded, picture)


def _half_size(picture: Picture) -> Picture:
    image = _pillow(picture)
    half = tuple(max(1, round(length / 2)) for length in image.size)
    return _array(_resized(_resized(image, half), image.size), picture)


def _cropped(picture: Picture) -> Picture:
    image = _pillow(picture)
    left, top = (round(length * 0.05) for length in image.size)
    inner = image.crop((left, top, image.width - left, image.height - top))
    return _array(_resized(inner, image.size), picture)


def _rotated(picture: Picture, degrees: float) -> Picture:
    """About the centre, at the same size: corners are lost, and black ones come in."""
    from PIL import Image

    turned = _pillow(picture).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=0)
    return _array(turned, picture)


def _blur(picture: Picture) -> Picture:
    return _shaped(_opencv().GaussianBlur(picture, (0, 0), 1.0), picture)


def _median(picture: Picture) -> Picture:
    return _shaped(_opencv().medianBlur(picture, 3), picture)


def _bilateral(picture: Picture) -> Picture:
    """9 x 9 pixels, sigma 3 in space and 30 in grey levels."""
    return _shaped(_opencv().bilateralFilter(picture, 9, 30, 3), picture)


def _non_local_means(picture: Picture) -> Picture:
    """Patches of 7 x 7 in a neighbourhood of 21 x 21 (Buades, Coll, Morel 2005)."""
    cv2 = _opencv()
    if picture.shape[2] == 1:
        return _shaped(cv2.fastNlMeansDenoising(picture, None, NLM_STRENGTH, 7, 21), picture)
    return _shaped(
        cv2.fastNlMeansDenoisingColored(picture, None, NLM_STRENGTH, NLM_STRENGTH, 7, 21), picture
    )


def _total_variation(picture: Picture) -> Picture:
    smooth = total_variation(shares(picture), TV_WEIGHT, TV_ROUNDS)
    return rounded(smooth * 255)


def total_variation(windowed: Float, weight: float, rounds: int) -> Float:
    """The u that minimises |u - windowed|^2 / 2 + weight * TV(u), each channel by itself
    (Chambolle 2004, the fixed-point iteration on its dual, step 1/4).

    `windowed` (rows, columns, channels), values in 0..1; the result has its shape.
    """
    down, across = np.zeros_like(windowed), np.zeros_like(windowed)
    for _ in range(rounds):
        estimate = windowed + weight * _divergence(down, across)
        slope_down, slope_across = np.zeros_like(windowed), np.zeros_like(windowed)
        slope_down[:-1] = estimate[1:] - estimate[:-1]
        slope_across[:, :-1] = estimate[:, 1:] - estimate[:, :-1]
        step = 0.25 / weight
        scale = 1 + step * np.sqrt(slope_down**2 + slope_across**2)
        down = (down + step * slope_down) / scale
        across = (across + step * slope_across) / scale
    result: Float = windowed + weight * _divergence(down, across)
    return result


def _divergence(down: Float, across: Float) -> Float:
    """Minus the adjoint of the forward differences above; `down` is 0 in the last row, `across`
    in the last column."""
    total = down + across
    total[1:] -= down[:-1]
    total[:, 1:] -= across[:, :-1]
    return total


def _five_bits(picture: Picture) -> Picture:
    """32 levels a channel, black and white among them."""
    return rounded(np.rint(picture.astype(np.float32) * (31 / 255)) * (255 / 31))


def _levels(picture: Picture, gain: float, offset: float) -> Picture:
    return rounded(picture.astype(np.float32) * gain + offset)


# --- Taking the logo off ------------------------------------------------------------------------


def _inpainted(method: str, scene: Scene) -> Picture:
    """Fill the logo from around it: where the true mask says, or, without one, the network's.

    A found mask is widened by a hundredth of the longer side: what is left of a logo's edge
    would be carried inwards.
    """
    cv2 = _opencv()
    picture, mask = scene.picture, scene.mask
    if mask is None:
        _, found = _answer(scene)
        mask = widened(found, _hundredth(picture))
    if mask.all() or not mask.any():
        return picture.copy()  # nothing to fill, or nothing to fill from
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    holes = mask.astype(np.uint8) * 255
    return _shaped(cv2.inpaint(picture, holes, INPAINT_RADIUS, flag), picture)


def _removed(scene: Scene) -> Picture:
    """The network's picture where it found a logo, and around it by a hundredth of the longer
    side; elsewhere the picture's own pixels, which have not been through the network's size."""
    whole, found = _answer(scene)
    inside = widened(found, _hundredth(scene.picture))
    return np.where(inside[..., None], whole, scene.picture)


def _removed_whole(scene: Scene) -> Picture:
    """All of the network's picture, as the paper tests it."""
    return _answer(scene)[0]


def _then_jpeg(first: Callable[[Scene], Picture], scene: Scene) -> Picture:
    return _coded(first(scene), "JPEG", 75)


def _answer(scene: Scene) -> tuple[Picture, Mask]:
    assert scene.remover is not None  # noqa: S101 - `on` refused it
    whole, found = scene.remover(scene.picture)
    shape = scene.picture.shape
    if whole.shape != shape or whole.dtype != np.uint8 or found.shape != shape[:2]:
        raise ValueError(f"the remover gave {whole.shape} {whole.dtype} and a mask {found.shape}")
    return whole, np.asarray(found) != 0


def _hundredth(picture: Picture) -> int:
    return max(1, round(max(int(length) for length in picture.shape[:2]) / 100))


def removal_network(surrogate: Surrogate, threshold: float = 0.5) -> Remover:
    """A model of the role `removal` as a remover of pictures of any size.

    The picture goes in as every model sees it (`view_for`), and what comes out is brought back to
    its pixels by linear interpolation. The mask is where the network's, brought back, is at least
    `threshold`.

    Raises:
        ModelUnusable: the model has another role.
    """
    manifest, session = surrogate.manifest, surrogate.session
    if manifest.role != "removal":
        raise ModelUnusable(f"{manifest.name} is no removal network: its role is {manifest.role}")

    def remove(picture: Picture) -> tuple[Picture, Mask]:
        view = view_for(manifest.input, *picture.shape[:2])
        seen = view.of(windowed(picture)).astype(np.float32)
        shown, masks = session.restored(session.run(seen[None]))
        whole = np.stack([view.back(plane) for plane in shown[0]], axis=2)
        samples = whole.mean(axis=2, keepdims=True) if picture.shape[2] == 1 else whole
        return rounded(samples * 255), view.back(masks[0]) >= threshold

    return remove


# --- Arrays, Pillow and OpenCV ------------------------------------------------------------------


def _shaped(values: Any, picture: Picture) -> Picture:
    """OpenCV leaves out the axis of a single channel."""
    return np.asarray(values, np.uint8).reshape(picture.shape)


def _pillow(picture: Picture) -> Any:
    from PIL import Image

    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def _array(image: Any, picture: Picture) -> Picture:
    """A Pillow image as an array with as many channels as `picture` has."""
    mode = "L" if picture.shape[2] == 1 else "RGB"
    return _shaped(image.convert(mode), picture)


def _resized(image: Any, size: Any) -> Any:
    from PIL import Image

    return image.resize(size, Image.Resampling.BICUBIC)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise UsageError(
            "the report's counterattacks need OpenCV, which is not installed",
            hint='Install the extra:  pip install "miad[report]".',
        ) from None
    return cv2
