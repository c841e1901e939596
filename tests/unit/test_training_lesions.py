"""Learning where lesions are: outlines, boxes, the network, its figures."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training import segmentation, train, train_segmenter
from training.data import TaskImages, hold_out, load_split
from training.quality import overlap
from training.runs import restore, run
from training.segmentation import boxes_around, covered, measure_segmentation
from training.segmenters import UNet, initialise_segmenter

CPU = torch.device("cpu")
SIDE = 32


def test_masks_are_read_as_they_look_and_divided_like_their_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "dermoscopy"
    (folder / "masks").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split", "group", "box", "mask"))
        for i in range(8):
            lesion = np.zeros((30, 40), np.uint8)
            lesion[10:20, 4 * i : 4 * i + 8] = 255
            Image.fromarray(lesion).save(folder / f"{i}.png")  # the picture is its own outline
            outline = Image.fromarray(lesion if i % 2 else 255 - lesion)
            if i % 2 == 0:
                # As some tools write them: in a palette whose 0 is white and whose 255 black.
                outline = Image.fromarray(255 - lesion, "P")
                outline.putpalette([level for n in range(256) for level in (255 - n,) * 3])
            outline.save(folder / "masks" / f"{i}.png")
            writer.writerow((f"{i}.png", "nv", "train", f"g{i}", "", f"masks/{i}.png"))
    images = load_split(tmp_path, "dermoscopy", "train", SIDE, masked=True)
    assert images.masks is not None
    np.testing.assert_array_equal(images.masks, images.images)
    assert (images.masks.max(axis=(1, 2, 3)) == 255).all()
    for part in hold_out(images, 0.4, np.random.default_rng(0)):
        np.testing.assert_array_equal(part.masks, part.images)
    assert load_split(tmp_path, "dermoscopy", "train", SIDE).masks is None


def write_boxes(root: Path, *rows: tuple[str, str, str]) -> None:
    """Pictures of 40 x 30 pixels: each a label, a box and a mask, of which there may be none."""
    folder = root / "brain_mri"
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split", "group", "box", "mask"))
        for i, (label, box, mask) in enumerate(rows):
            Image.new("L", (40, 30), 90).save(folder / f"{i}.png")
            if mask:
                Image.new("L", (40, 30), 255).save(folder / mask)
            writer.writerow((f"{i}.png", label, "train", f"g{i}", box, mask))


def test_a_box_stands_for_the_ellipse_in_it(tmp_path: Path) -> None:
    box = "0.5 0.5 0.5 0.4"  # 20 x 12 pixels of 40 x 30, in the middle of a square of 40 x 40
    rows = [("glioma", box, ""), ("no_tumor", "", ""), ("glioma", box, "0.mask.png")]
    write_boxes(tmp_path, *rows)
    images = load_split(tmp_path, "brain_mri", "train", 40, masked=True)
    assert images.masks is not None
    boxed, healthy, outlined = images.masks[:, 0] > 127
    assert boxes_around(boxed) == [(10, 14, 30, 26)]
    assert boxed.sum() == pytest.approx(np.pi / 4 * 20 * 12, rel=0.05)
    assert not healthy.any()
    assert outlined.sum() == 40 * 30  # an outline says more than a box


def test_a_set_without_masks_says_so(tmp_path: Path) -> None:
    write_boxes(tmp_path, ("no_tumor", "", ""), ("glioma", "", ""), ("pituitary", "", ""))
    with pytest.raises(ValueError, match="2 of 3 pictures of brain_mri have no lesion mask"):
        load_split(tmp_path, "brain_mri", "train", SIDE, masked=True)


def lesions(count: int, side: int) -> TaskImages:
    """Bright squares on noise, with their masks."""
    rng = np.random.default_rng(3)
    images = rng.integers(60, 120, (count, 3, side, side), np.uint8)
    masks = np.zeros((count, 1, side, side), np.uint8)
    for i, (y, x) in enumerate(rng.integers(6, side // 2, (count, 2))):
        masks[i, :, y : y + side // 3, x : x + side // 3] = 255
    images[np.repeat(masks > 0, 3, axis=1)] += 80
    groups = np.arange(count).astype(str)
    return TaskImages("skin", ("a",), images, np.zeros(count, np.int64), groups, masks)


def test_a_mask_is_distorted_like_its_picture() -> None:
    some = lesions(6, 48)
    pictures, masks = (torch.from_numpy(one) for one in (some.images, some.masks))
    how = train_segmenter.ANY_WAY_ROUND
    shown, found = train_segmenter.distorted(pictures, masks, 48, how, seed=5)
    assert (shown.shape, found.shape) == ((6, 3, 48, 48), (6, 1, 48, 48))
    inside, outside = found > 0.99, found < 0.01
    for picture, lesion, skin in zip(shown, inside[:, 0], outside[:, 0], strict=True):
        assert float(picture[:, lesion].mean()) > float(picture[:, skin].mean()) + 0.1
    # Any way round: it is not where it was, and another seed puts it elsewhere.
    other = train_segmenter.distorted(pictures, masks, 48, how, seed=6)[1]
    for one in (masks / 255.0, other):
        assert float(overlap(found, one).mean()) < 0.8


def test_the_loss_of_a_mask_counts_small_lesions_in_full() -> None:
    wanted = torch.zeros(2, 1, 16, 16)
    wanted[0, :, :2, :2], wanted[1, :, :12, :12] = 1, 1
    right, nothing = (wanted * 2 - 1) * 20, torch.full_like(wanted, -20)
    assert float(train_segmenter.segmentation_loss(right, wanted)) == pytest.approx(0, abs=1e-4)
    each = [
        float(train_segmenter.segmentation_loss(nothing[i : i + 1], wanted[i : i + 1]))
        - 20 * float(wanted[i].mean())  # the cross-entropy
        for i in (0, 1)
    ]
    assert each == pytest.approx([1 - 1 / 5, 1 - 1 / 145], abs=1e-3)


def test_the_segmenter_is_small_and_takes_any_multiple_of_16() -> None:
    network = UNet()
    initialise_segmenter(network, torch.Generator().manual_seed(0))
    assert 300_000 < sum(p.numel() for p in network.parameters()) < 500_000
    with torch.no_grad():
        assert network.eval()(torch.rand(2, 3, 48, 64)).shape == (2, 1, 48, 64)


def test_a_segmenter_learns_where_the_lesion_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tiny() -> nn.Module:
        return UNet((8, 8, 16, 16), (2,))

    monkeypatch.setattr(train_segmenter, "SEGMENTERS", MappingProxyType({"tiny": tiny}))
    recipe = train_segmenter.SegmenterRecipe(
        segmenter="tiny",
        tasks=("skin",),
        cycles=(3.0, 2.0),
        rates=(0.03, 0.02),
        sides=(32, 48),
        batch=4,
    )
    part = train.Part((lesions(24, train.stored_side(48)),))
    trainer = train_segmenter.SegmenterTrainer(recipe, part, part, CPU)
    progress = run(trainer, tmp_path, resume=False)
    assert (progress.cycle, progress.best_side) == (2, 48)
    restored = tiny()
    restore(restored, torch.load(tmp_path / "best.pt", weights_only=True))
    (images, masks), *_ = trainer.held
    with torch.no_grad():
        found = restored(train_segmenter.normalised(images / 255.0)) > 0
    assert float(overlap(found.float(), masks / 255.0).mean()) > 0.5


def test_boxes_cover_each_part_of_a_mask() -> None:
    mask = np.zeros((12, 16), bool)
    mask[2:5, 3:6] = mask[6, 5] = mask[9, 10:14] = True
    assert set(boxes_around(mask)) == {(3, 2, 6, 5), (5, 6, 6, 7), (10, 9, 14, 10)}
    np.testing.assert_array_equal(covered(mask), mask)
    mask[5, 4] = True  # joins the first two
    assert covered(mask).sum() == 3 * 5 + 4


def test_lesions_are_missed_where_there_are_some_and_made_up_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = lesions(4, 48)
    assert some.masks is not None
    some.masks[2:] = 0
    found = some.masks[:, 0] / np.float32(255)
    found[1], found[3] = 0, found[0]  # one missed, one made up
    monkeypatch.setattr(segmentation, "chances", lambda *_: found)
    figures = measure_segmentation(Path("any"), "skin", some, (0.5,), (0.5,))
    assert (figures.uncovered, figures.false_finds) == (0.5, 0.5)
    assert figures.iou == 0.5
    assert figures.entry("any")["false_finds"] == 0.5
    monkeypatch.setattr(segmentation, "chances", lambda *_: found[:2])
    everywhere = measure_segmentation(Path("any"), "skin", some.take(np.arange(4) < 2), (), ())
    assert "false_finds" not in everywhere.entry("any")
