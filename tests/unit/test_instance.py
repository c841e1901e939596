"""One protected instance: what is written, how it is undone, and what is said of it afterwards."""

from __future__ import annotations

import gc
import hashlib
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    OWNER,
    build_dataset,
    build_png,
    encode,
    marking_of,
    noisy_logo,
    opaque_logo,
    picture_of,
    ramp,
    sealing_for,
    tone_of,
)
from pydicom import Dataset, dcmread, examples
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
)
from pyrage import x25519

from miad_cli import instance as room
from miad_cli.errors import ContainerDamaged, PictureFailed, RestorationMismatch
from miad_cli.imaging.picture import Picture, container_in, container_in_file, read_picture
from miad_cli.imaging.raster import read_raster
from miad_cli.instance import write_instance
from miad_cli.restoration import marked_again, restore
from miad_cli.seal.carriers import sidecar_of
from miad_cli.seal.container import open_payload, parse
from miad_cli.seal.payload import Payload, decode
from miad_cli.unlock import unlock
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.delta import Delta, add, grid_size
from miad_cli.watermark.marking import Marking

IDENTITY = x25519.Identity.generate()
MARK = Mark(3, 2, 200, noisy_logo(8, 10))


def delta_for(picture: Picture, largest: int = 8) -> Delta:
    """Random cells for a picture, of -largest to largest."""
    size = grid_size(picture.image.rows, picture.image.columns)
    shape = (*size, picture.image.stored.shape[-1])
    return Delta(np.random.default_rng(4).integers(-largest, largest + 1, shape).astype(np.int8))


def marking_over(picture: Picture, mark: Mark, delta: Delta) -> Marking:
    """The marking that puts `mark` over `delta` on a picture."""
    beneath = add(picture.image.stored, delta, tone_of(picture.image))
    marking = marking_of(replace(picture.image, stored=beneath), mark)
    return replace(marking, decision=replace(marking.decision, delta=delta))


def protect(
    folder: Path,
    picture: Picture,
    payload: str = "auto",
    carrier: str = "both",
    mark: Mark = MARK,
    delta: Delta | None = None,
) -> Path:
    """A protected file in `folder`, as `protect` writes it."""
    target = folder / ("p.dcm" if hasattr(picture, "dataset") else "p.png")
    sealing = sealing_for(IDENTITY.to_public(), payload, carrier)
    if delta is None:
        marking = marking_of(picture.image, mark)
    else:
        marking = marking_over(picture, mark, delta)
    write_instance(target, "the original.dcm", picture, marking, sealing)
    return target


def payload_in(path: Path) -> Payload:
    container = container_in(read_picture(path.read_bytes(), path))
    assert container is not None
    return decode(open_payload(parse(container), [IDENTITY]))


def verdict(path: Path) -> Verdict:
    return verify_file(path, [OWNER.public]).verdict


def rewritten(path: Path, change) -> None:
    """The file with its data set changed."""
    dataset = dcmread(BytesIO(path.read_bytes()))
    change(dataset)
    path.write_bytes(encode(dataset))


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    return protect(tmp_path, picture_of(build_dataset(ramp(), bits_stored=12)))


# --- Payload ----------------------------------------------------------------------------------


def deflated() -> Dataset:
    return build_dataset(ramp(), syntax=DeflatedExplicitVRLittleEndian)


def compressed() -> Dataset:
    dataset = build_dataset(ramp(), bits_stored=12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def with_odd_padding() -> Dataset:
    """9 values of 8 bits, and a pad byte that is not zero: no compact payload brings it back."""
    dataset = build_dataset(np.arange(143, dtype="u1").reshape(1, 11, 13, 1))
    dataset.PixelData = dataset.PixelData[:-1] + b"\x07"
    return dataset


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: build_dataset(ramp(), bits_stored=12), "compact"),
        (lambda: build_dataset(ramp() | 0x9000, bits_stored=12), "compact"),
        (lambda: build_dataset(ramp(), syntax=ExplicitVRBigEndian), "compact"),
        (lambda: examples.ct, "compact"),
        (lambda: examples.rgb_color, "compact"),
        (deflated, "original"),
        (compressed, "original"),
        (with_odd_padding, "original"),
        (lambda: examples.palette_color, "original"),
        (lambda: examples.ybr_color, "original"),
    ],
    ids=["native", "overlay", "big endian", "ct", "rgb", "deflated", "rle", "pad byte", "palette",
         "ybr"],
)  # fmt: skip
def test_original_comes_back_from_the_payload_that_fits(tmp_path: Path, make, mode: str) -> None:
    picture = picture_of(make())
    path = protect(tmp_path, picture)
    payload = payload_in(path)
    assert payload.mode == mode
    assert restore(payload, path.read_bytes()) == picture.content
    assert payload.original_sha256 == hashlib.sha256(picture.content).hexdigest()
    assert payload.original_name == "the original.dcm"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_png_comes_back(tmp_path: Path, count: int) -> None:
    samples = np.random.default_rng(count).integers(0, 256, (14, 20, count), np.uint8)
    original = build_png(samples)
    path = protect(tmp_path, read_raster(original))
    assert restore(payload_in(path), path.read_bytes()) == original
    assert verdict(path) is Verdict.AUTHENTIC


def test_original_can_be_asked_for(tmp_path: Path) -> None:
    path = protect(tmp_path, picture_of(build_dataset(ramp())), payload="original")
    assert payload_in(path).mode == "original"


@pytest.mark.parametrize("make", [deflated, compressed])
def test_compact_is_refused_where_it_cannot_be(tmp_path: Path, make) -> None:
    with pytest.raises(PictureFailed, match="compact payload"):
        protect(tmp_path, picture_of(make()), payload="compact")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_where_the_original_does_not_come_back(tmp_path: Path) -> None:
    with pytest.raises(PictureFailed, match="nothing was kept"):
        protect(tmp_path, picture_of(with_odd_padding()), payload="compact")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_where_the_disk_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = picture_of(build_dataset(ramp()))
    monkeypatch.setattr(room, "_reread", lambda content, stored: picture)
    with pytest.raises(PictureFailed, match="not the ones that were decided on"):
        protect(tmp_path, picture)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_where_the_disk_changes_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr("miad_cli.files._write_synced", write)
    with pytest.raises(PictureFailed, match="the disk did not keep"):
        protect(tmp_path, picture_of(build_dataset(ramp())))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("carrier", "embedded", "beside"),
    [("both", True, True), ("embed", True, False), ("sidecar", False, True)],
)
def test_container_travels_as_asked(
    tmp_path: Path, carrier: str, embedded: bool, beside: bool
) -> None:
    path = protect(tmp_path, picture_of(build_dataset(ramp())), carrier=carrier)
    assert (container_in(read_picture(path.read_bytes(), path)) is not None) is embedded
    assert sidecar_of(path).exists() is beside
    assert verdict(path) is Verdict.AUTHENTIC


@pytest.mark.parametrize("make", [lambda: build_dataset(ramp()), compressed, deflated])
def test_container_is_found_without_decoding_a_pixel(
    tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = protect(tmp_path, picture_of(make()))
    content = path.read_bytes()
    expected = container_in(read_picture(content, path))

    def decode(*anything: object, **settings: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("miad_cli.imaging.dicom._pixels", decode)
    assert container_in_file(content) == expected


def test_container_is_found_in_a_png_and_not_where_there_is_none(tmp_path: Path) -> None:
    original = build_png(np.zeros((14, 20, 3), np.uint8))
    path = protect(tmp_path, read_raster(original))
    assert container_in_file(path.read_bytes()) is not None
    assert container_in_file(original) is None
    assert container_in_file(encode(build_dataset(ramp()))) is None
    with pytest.raises(PictureFailed):
        container_in_file(b"some text")


def test_same_original_gets_the_same_uids_and_another_does_not(tmp_path: Path) -> None:
    uids = []
    for number, words in enumerate((ramp(), ramp(), ramp(top=999))):
        (tmp_path / str(number)).mkdir()
        path = protect(tmp_path / str(number), picture_of(build_dataset(words)))
        dataset = dcmread(path)
        assert dataset.SOPInstanceUID.startswith("2.25.")
        uids.append((dataset.SOPInstanceUID, dataset.SeriesInstanceUID))
    assert uids[0] == uids[1]
    assert uids[0][0] != uids[2][0]
    assert uids[0][1] == uids[2][1]


# --- Restoring --------------------------------------------------------------------------------


def test_changed_pixel_under_the_logo_is_no_original(protected: Path) -> None:
    payload, content = payload_in(protected), bytearray(protected.read_bytes())
    start = content.index(dcmread(protected).PixelData)
    content[start + 2 * (16 * 4 + 6)] ^= 1
    with pytest.raises(RestorationMismatch, match="pixels of the protected file were changed"):
        restore(payload, bytes(content))


def test_picture_of_another_shape_is_no_original(protected: Path) -> None:
    other = encode(build_dataset(ramp(16, 12), bits_stored=12))
    with pytest.raises(RestorationMismatch, match="no longer holds the picture"):
        restore(payload_in(protected), other)


def test_compact_payload_needs_the_picture(protected: Path) -> None:
    with pytest.raises(RestorationMismatch, match="only the sidecar"):
        restore(payload_in(protected), None)


def test_whole_original_needs_nothing_else(tmp_path: Path) -> None:
    picture = picture_of(build_dataset(ramp()))
    payload = payload_in(protect(tmp_path, picture, payload="original"))
    assert restore(payload, None) == picture.content


@pytest.mark.parametrize("part", ["head", "tail", "corrections", "logo"])
def test_payload_without_a_part_is_damaged(protected: Path, part: str) -> None:
    payload = payload_in(protected)
    parts = {name: content for name, content in payload.parts.items() if name != part}
    with pytest.raises(ContainerDamaged):
        restore(replace(payload, parts=parts), protected.read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0},
        {"alpha": 256},
        {"x": -1},
        {"x": 9},
        {"y": "2"},
        {"logo": {"rows": 8, "columns": 9}},
        {"tone": {}},
        {"delta": {"rows": 224}},
        {"layout": None},
        {"layout": {"bits_allocated": 12}},
    ],
    ids=str,
)
def test_recipe_that_cannot_be_is_damaged(protected: Path, change: dict) -> None:
    payload = payload_in(protected)
    with pytest.raises(ContainerDamaged):
        restore(replace(payload, recipe={**payload.recipe, **change}), protected.read_bytes())


def test_original_survives_a_change_of_byte_order(tmp_path: Path) -> None:
    """The recipe undoes values, not bytes: the protected file may be encoded anew without loss."""
    picture = picture_of(build_dataset(ramp(), bits_stored=12))
    path = protect(tmp_path, picture)
    payload, dataset = payload_in(path), dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    assert restore(payload, encode(dataset)) == picture.content


# --- A perturbation under the mark --------------------------------------------------------------


def a_png() -> Picture:
    return read_raster(build_png(np.random.default_rng(6).integers(0, 256, (14, 20, 3), np.uint8)))


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: picture_of(examples.ct), "compact"),
        (lambda: picture_of(examples.rgb_color), "compact"),
        (lambda: picture_of(compressed()), "original"),
        (a_png, "original"),
    ],
    ids=["ct", "rgb", "rle", "png"],
)
def test_original_comes_back_from_under_a_perturbation(tmp_path: Path, make, mode: str) -> None:
    picture = make()
    delta = delta_for(picture)
    path = protect(tmp_path, picture, delta=delta)
    payload = payload_in(path)
    assert payload.mode == mode
    assert payload.parts["delta"] == delta.grid.tobytes()
    assert restore(payload, path.read_bytes()) == picture.content
    written = read_picture(path.read_bytes(), path).image.stored[:, 20:]
    if picture.image.rows > 20:  # below the mark
        assert (written != picture.image.stored[:, 20:]).mean() > 0.3
    found = verify_file(path, [OWNER.public], [IDENTITY])
    assert (found.verdict, found.restorable, found.recipe_holds) == (Verdict.AUTHENTIC, True, True)


@pytest.fixture
def perturbed(tmp_path: Path) -> Path:
    picture = picture_of(build_dataset(ramp(), bits_stored=12))
    return protect(tmp_path, picture, delta=delta_for(picture, 100))


def test_recipe_of_another_perturbation_does_not_hold(perturbed: Path) -> None:
    """What makes the protected pixels of the original is this grid and no other."""
    payload, content = payload_in(perturbed), perturbed.read_bytes()
    original = restore(payload, content)
    stored = read_picture(content, perturbed).image.stored
    np.testing.assert_array_equal(marked_again(payload, original), stored)
    cells = (-np.frombuffer(payload.parts["delta"], np.int8)).tobytes()
    other = replace(payload, parts={**payload.parts, "delta": cells})
    assert not np.array_equal(marked_again(other, original), stored)
    with pytest.raises(RestorationMismatch, match="pixels of the protected file were changed"):
        restore(other, content)


@pytest.mark.parametrize("value", [0, 4095])
def test_pixels_that_were_changed_are_named_whatever_is_in_doubt(
    perturbed: Path, value: int
) -> None:
    """At the window's ends there are more doubtful values than bits, in its middle fewer."""
    dataset = dcmread(perturbed)
    for level in (value, 2000):
        dataset.PixelData = np.full(12 * 16, level, "u2").tobytes()
        with pytest.raises(RestorationMismatch, match="pixels of the protected file were changed"):
            restore(payload_in(perturbed), encode(dataset))


def _of_other_cells(part: bytes) -> bytes:
    return (-np.frombuffer(part, np.int8)).tobytes()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("doubts", lambda part: part + bytes(1)),
        ("doubts", lambda part: part[:-1]),
        ("delta", _of_other_cells),
    ],
    ids=["too many doubts", "too few doubts", "another perturbation"],
)
def test_payload_that_does_not_fit_is_told_from_changed_pixels(
    perturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, change
) -> None:
    payload = payload_in(perturbed)
    other = replace(payload, parts={**payload.parts, part: change(payload.parts[part])})
    for user in ("unlock", "verify"):
        monkeypatch.setattr(f"miad_cli.{user}.decode", lambda content: other)

    def said() -> list[str]:
        found = verify_file(perturbed, [OWNER.public], [IDENTITY])
        assert (found.restorable, found.exit_code) == (False, 6)
        owners = [OWNER.public]
        (outcome,) = unlock([perturbed], tmp_path / "back", [IDENTITY], owners, "replace").outcomes
        assert (outcome.state, outcome.exit_code) == ("failed", 6)
        # Who is not trusted may have put any pixels under a seal of their own.
        (unvouched,) = unlock([perturbed], tmp_path / "back", [IDENTITY], [], "replace").outcomes
        assert "pixels of the protected file were changed" in unvouched.reason
        return [found.reason, outcome.reason]

    assert all("does not fit the picture" in reason for reason in said())
    rewritten(perturbed, lambda dataset: setattr(dataset, "PixelData", bytes(2 * 12 * 16)))
    assert not any("does not fit the picture" in reason for reason in said())
    assert "pixels of the protected file were changed" in said()[1]


@pytest.mark.parametrize("part", ["delta", "doubts"])
def test_perturbation_without_a_part_is_damaged(perturbed: Path, part: str) -> None:
    payload = payload_in(perturbed)
    parts = {name: content for name, content in payload.parts.items() if name != part}
    with pytest.raises(ContainerDamaged):
        restore(replace(payload, parts=parts), perturbed.read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"rows": 12, "columns": 16},
        {"rows": 16, "columns": 12, "samples": 1},
        {"rows": 12, "columns": 15, "samples": 1},
        {"rows": 1 << 40, "columns": 1 << 40, "samples": 1},
    ],
    ids=str,
)
def test_perturbation_that_cannot_be_is_damaged(perturbed: Path, change: dict | None) -> None:
    payload = payload_in(perturbed)
    with pytest.raises(ContainerDamaged):
        restore(
            replace(payload, recipe={**payload.recipe, "delta": change}), perturbed.read_bytes()
        )


@pytest.mark.parametrize("part", ["delta", "doubts"])
def test_part_of_a_perturbation_that_is_not_there_is_damaged(protected: Path, part: str) -> None:
    payload = payload_in(protected)
    with pytest.raises(ContainerDamaged):
        restore(replace(payload, parts={**payload.parts, part: bytes(192)}), protected.read_bytes())


# --- Verdicts ---------------------------------------------------------------------------------


def test_untouched_file_is_authentic(protected: Path) -> None:
    assert verdict(protected) is Verdict.AUTHENTIC


def test_changed_pixel_is_told(protected: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]

    rewritten(protected, change)
    assert verdict(protected) is Verdict.PIXELS_CHANGED


def test_changed_window_is_told(protected: Path) -> None:
    rewritten(protected, lambda dataset: setattr(dataset, "WindowCenter", 5))
    assert verdict(protected) is Verdict.ATTRIBUTES_CHANGED


def test_changed_person_is_nobodys_business(protected: Path) -> None:
    rewritten(protected, lambda dataset: setattr(dataset, "PatientID", "7"))
    assert verdict(protected) is Verdict.AUTHENTIC


def test_lossless_compression_is_told_and_still_restorable(protected: Path) -> None:
    rewritten(protected, lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False))
    found = verify_file(protected, [OWNER.public], [IDENTITY])
    assert found.verdict is Verdict.RE_ENCODED
    assert found.restorable is True


def test_container_of_another_picture_is_told(tmp_path: Path, protected: Path) -> None:
    (tmp_path / "other").mkdir()
    dataset = build_dataset(ramp(top=700), bits_stored=12, SeriesNumber=1)
    dataset.SOPInstanceUID = "1.2.3.4.5.7"
    other = protect(tmp_path / "other", picture_of(dataset), carrier="sidecar")
    shutil.copyfile(sidecar_of(protected), sidecar_of(other))
    assert verdict(other) is Verdict.MOVED


def test_stripped_file_is_authentic_by_its_sidecar(protected: Path) -> None:
    def strip(dataset: Dataset) -> None:
        dataset.remove_private_tags()

    rewritten(protected, strip)
    assert verdict(protected) is Verdict.AUTHENTIC
    sidecar_of(protected).unlink()
    assert verdict(protected) is Verdict.NOT_PROTECTED


def test_stranger_is_told(protected: Path) -> None:
    assert verify_file(protected, []).verdict is Verdict.OWNER_UNKNOWN


def test_damaged_copy_does_not_spoil_the_whole_one(protected: Path) -> None:
    sidecar_of(protected).write_bytes(b"MIAD\x01 not a container")
    assert verdict(protected) is Verdict.AUTHENTIC


def test_plain_file_is_not_protected(tmp_path: Path) -> None:
    path = tmp_path / "plain.dcm"
    path.write_bytes(encode(build_dataset(ramp())))
    assert verdict(path) is Verdict.NOT_PROTECTED


def test_opaque_logo_over_everything_is_undone(tmp_path: Path) -> None:
    picture = picture_of(build_dataset(ramp(), bits_stored=12))
    path = protect(tmp_path, picture, mark=Mark(0, 0, 255, opaque_logo(12, 16)))
    assert restore(payload_in(path), path.read_bytes()) == picture.content


def test_file_without_an_identity_of_its_own_has_a_verdict(tmp_path: Path) -> None:
    dataset = build_dataset(ramp())
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    del dataset.SOPInstanceUID
    path = tmp_path / "plain.dcm"
    path.write_bytes(encode(dataset))
    assert verdict(path) is Verdict.NOT_PROTECTED


# --- Memory -----------------------------------------------------------------------------------


def rle_cine() -> Dataset:
    dataset = cine()
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def cine(dtype: str = "u1") -> Dataset:
    """80 frames of something that moves and that RLE makes shorter, 10 MB of values."""
    top = 255 if dtype == "u1" else 4095
    frame = np.repeat(np.linspace(0, top, 32), 8)[None].repeat(512, axis=0)
    words = np.stack([np.roll(frame, 8 * number, axis=1) for number in range(80)])
    return build_dataset(words.astype(dtype)[..., None], bits_stored=8 if dtype == "u1" else 12)


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that Python and numpy hold at most while `work` is done, beyond what they held."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "limit", "with_delta"),
    [(cine, 4, False), (lambda: cine("u2"), 4, False), (rle_cine, 6, False), (cine, 4, True)],
    ids=["8 bit", "12 bit", "rle", "delta"],
)
def test_memory_is_a_small_multiple_of_the_pixels(
    tmp_path: Path, make, limit: float, with_delta: bool
) -> None:
    source, target = tmp_path / "cine.dcm", tmp_path / "out" / "p.dcm"
    source.write_bytes(encode(make()))
    size = picture_of(make()).words.nbytes
    mark = Mark(5, 5, 150, noisy_logo(200, 100))
    delta = delta_for(picture_of(make())) if with_delta else None

    def protecting() -> None:
        picture = read_picture(source.read_bytes(), source)
        protect(target.parent, picture, mark=mark, delta=delta)

    def restoring() -> None:
        content = target.read_bytes()
        restored = restore(payload, content)
        assert hashlib.sha256(restored).hexdigest() == payload.original_sha256

    assert peak_of(protecting) < limit * size
    payload = payload_in(target)
    assert peak_of(restoring) < 3.5 * size
