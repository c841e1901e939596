"""The training pipeline, on tiny networks and random pictures."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training import make_bank, train, train_remover, train_segmenter
from training.architectures import FAMILIES, ConvNorm, Family, Network, initialise
from training.augment import Augmentation, augment, jpeg
from training.data import SOURCES, TaskImages, load_split
from training.marks import Marked, Marking, logo_bank, mark
from training.pack import write_pack
from training.quality import PERFECT, overlap, psnr, ssim
from training.removers import REMOVERS, Decomposing, SplitRefine, initialise_remover
from training.runs import Limits, Pace, Progress, Schedule, finished, rate_at, restore, run

CPU = torch.device("cpu")
SIDE = 32


def tiny_trunk() -> tuple[nn.Module, int]:
    return nn.Sequential(ConvNorm(3, 6, 3, 4), ConvNorm(6, 8, 3, 4)), 8


TINY = Family("tiny", tiny_trunk, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def tiny_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "FAMILIES", MappingProxyType({"tiny": TINY}))


def random_task(task: str, counts: dict[str, int], channels: int, side: int = SIDE) -> TaskImages:
    rng = np.random.default_rng(len(task))
    targets = np.repeat(np.arange(len(counts)), list(counts.values()))
    images = rng.integers(0, 256, (len(targets), channels, side, side), np.uint8)
    groups = np.array([f"{task}-{i}" for i in range(len(targets))])
    return TaskImages(task, tuple(counts), images, targets, groups)


def two_tasks(side: int = SIDE) -> train.Part:
    return train.Part(
        (
            random_task("grey", {"a": 16, "b": 4}, 1, side),
            random_task("colour", {"c": 3, "d": 2, "e": 1}, 3, side),
        )
    )


def smooth(count: int, side: int, channels: int = 3) -> torch.Tensor:
    """Pictures with soft shapes, as JPEG and removal are made for; 0..1."""
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


# Data


def write_sets(root: Path) -> None:
    rng = np.random.default_rng(5)
    for task, mode in (("brain_mri", "L"), ("dermoscopy", "RGB")):
        rows = []
        for label in (name for source in SOURCES[task] for name in source.labels):
            for split, count in (("train", 4), ("test", 2)):
                for i in range(count):
                    name = f"{label}/{split}{i}.png"
                    small = rng.integers(0, 256, (5, 7, len(mode)), np.uint8).squeeze()
                    path = root / task / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(small).resize((42, 30), Image.Resampling.BICUBIC).save(path)
                    rows.append((name, label, split, f"{label}-{split}-{i}", "", ""))
        with (root / task / "manifest.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label", "split", "group", "box", "mask"))
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_a_pack_holds_what_the_folder_holds(tmp_path: Path, kind: str) -> None:
    write_sets(tmp_path / "data")
    pack = tmp_path / "pack"
    tasks = ("brain_mri", "dermoscopy")
    assert write_pack(tmp_path / "data", pack, tasks, ("train",), SIDE, kind, 95) == 11 * 4
    for task, channels in zip(tasks, (1, 3), strict=True):
        folder = load_split(tmp_path / "data", task, "train", SIDE)
        packed = load_split(pack, task, "train", SIDE)
        assert packed.labels == folder.labels
        assert packed.targets.tolist() == folder.targets.tolist()
        assert packed.groups.tolist() == folder.groups.tolist()
        assert packed.images.shape == folder.images.shape
        assert packed.images.shape[1] == channels
        difference = packed.images.astype(int) - folder.images.astype(int)
        assert np.abs(difference).mean() < 8
    with pytest.raises(ValueError, match="no test pictures"):
        load_split(pack, "brain_mri", "test", SIDE)


def test_tasks_and_classes_are_balanced() -> None:
    part = two_tasks()
    shares = part.shares(0.5, 0.5)
    index = part.index()
    assert shares.sum() == pytest.approx(1.0)
    grey = shares[index[:, 0] == 0]
    assert grey.sum() / shares[index[:, 0] == 1].sum() == pytest.approx((20 / 6) ** 0.5)
    # 16 against 4 pictures: seen 2 : 1, so the rare class must count twice as much in the loss.
    assert grey[:16].sum() / grey[16:].sum() == pytest.approx(2.0)
    weights = train.loss_weights(part.tasks[0], 0.5)
    assert weights[1] / weights[0] == pytest.approx(2.0)
    assert float((weights * [2 / 3, 1 / 3]).sum()) == pytest.approx(1.0)


def test_an_epoch_shows_every_picture_as_often_as_its_share_says() -> None:
    part = two_tasks()
    shares = part.shares(0.5, 0.5)
    seen = np.zeros(len(part))
    rng = np.random.default_rng(0)
    for _ in range(400):
        for rows in part.batches(1, shares, rng):
            seen[rows[:, 1] + np.where(rows[:, 0] == 1, 20, 0)] += 1
    assert seen / 400 == pytest.approx(shares * len(part), abs=0.15)
    assert {len(list(part.batches(4, shares, rng))) for _ in range(50)} == {len(part) // 4}


def test_the_focal_loss_counts_what_is_sure_for_less() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.2]])
    wanted, even = torch.tensor([0, 0]), torch.ones(2)
    plain = train.classification_loss(logits, wanted, even, 0.0, 0.0)
    assert plain == pytest.approx(F.cross_entropy(logits, wanted, reduction="sum").item())
    each = [
        train.classification_loss(logits[i : i + 1], wanted[:1], even, 0.0, 2.0) for i in (0, 1)
    ]
    before = [
        train.classification_loss(logits[i : i + 1], wanted[:1], even, 0.0, 0.0) for i in (0, 1)
    ]
    assert each[0] / before[0] == pytest.approx((1 - logits.softmax(1)[0, 0].item()) ** 2, rel=1e-3)
    assert each[0] / before[0] < 0.01 < each[1] / before[1]


# Distortions


def test_distortions_are_repeatable_and_keep_grey_grey() -> None:
    grey = torch.randint(0, 256, (6, 1, 40, 40), dtype=torch.uint8)
    first, again, other = (
        augment(grey, SIDE, Augmentation(), torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert first.shape == (6, 3, SIDE, SIDE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0
    assert float((first - first[:, :1]).abs().max()) < 0.02  # JPEG's colour turn is not exact


def test_no_distortion_is_no_change() -> None:
    still = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    pictures = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    same = augment(pictures, SIDE, still, torch.Generator().manual_seed(0))
    assert same.numpy() == pytest.approx(pictures.numpy() / 255.0, abs=2e-5)


@pytest.mark.parametrize("quality", [40, 75, 92])
def test_the_jpeg_of_training_is_close_to_a_real_one(quality: int) -> None:
    picture = smooth(1, 48) * 0.8 + 0.2 * torch.rand(1, 3, 48, 48)
    pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    real = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)[None] / 255.0
    ours = jpeg(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0, torch.tensor([quality]))
    original = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
    lost, apart = (float((a - b).square().mean()) for a, b in ((real, original), (ours, real)))
    assert apart < 0.1 * lost
    assert lost > 1e-4


def test_jpeg_takes_a_grey_picture_for_three_equal_channels() -> None:
    grey, quality = torch.rand(2, 1, 40, 40), torch.tensor([50, 90])
    three = jpeg(grey.expand(-1, 3, -1, -1), quality)
    assert jpeg(grey, quality).numpy() == pytest.approx(three[:, :1].numpy(), abs=0.02)


# Schedule and checkpoints


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate_at(1.0, fraction) for fraction in np.linspace(0, 1, 101)]
    assert rates[0] < 0.05
    assert max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) == 10
    assert rates[-1] < 0.002


def test_a_timed_cycle_takes_its_share_of_the_time() -> None:
    schedule = Schedule(cycles=(0.75, 0.25), rates=(1.0, 1.0), sides=(8, 8), timed=True)
    now = time.monotonic()
    assert Pace(schedule, Progress(), 10, now + 100).span == pytest.approx(75, abs=1)
    half = Progress(cycle=0, fraction=0.5)
    assert Pace(schedule, half, 10, now + 100).span == pytest.approx(60, abs=1)
    assert Pace(schedule, Progress(cycle=1), 10, now + 40).span == pytest.approx(40, abs=1)
    assert Limits(budget=100.0).end(Progress(seconds=70.0)) == pytest.approx(now + 30, abs=1)


def trainer_of(cycles: tuple[float, ...] = (2.0,)) -> train.Trainer:
    recipe = train.Recipe(
        family="tiny",
        tasks=("grey", "colour"),
        cycles=cycles,
        rates=(0.01,) * len(cycles),
        sides=(16, SIDE)[-len(cycles) :],
        batch=4,
    )
    side = train.stored_side(SIDE)
    return train.Trainer(recipe, two_tasks(side), two_tasks(side), CPU, None)


@pytest.mark.usefixtures("tiny_family")
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    run(trainer_of((1.0, 2.0)), tmp_path / "whole", resume=False)
    paused = Limits(stop=time.monotonic() + 0.005)
    progress = run(trainer_of((1.0, 2.0)), tmp_path / "broken", resume=True, limits=paused)
    assert progress.epoch < 3
    progress = run(trainer_of((1.0, 2.0)), tmp_path / "broken", resume=True)
    assert (progress.epoch, progress.cycle, progress.best_side) == (3, 2, SIDE)
    whole, broken = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["network"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.usefixtures("tiny_family")
def test_another_recipe_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    run(trainer_of((1.0,)), tmp_path, resume=False)
    with pytest.raises(ValueError, match="another recipe"):
        run(trainer_of((2.0,)), tmp_path, resume=True)


def test_finished_weights_are_the_networks_folded_and_rounded() -> None:
    labels = {"grey": ("a", "b")}
    network = Network(TINY, labels)
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.train()(torch.rand(8, 3, SIDE, SIDE))
    small = finished(network)
    again = Network(TINY, labels)
    restore(again, small)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in again.modules())
    picture = torch.rand(2, 3, SIDE, SIDE)
    wanted, got = network.eval()(picture), again(picture)
    assert got.logits["grey"].detach().numpy() == pytest.approx(
        wanted.logits["grey"].detach().numpy(), abs=1e-3
    )


# Architectures


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_shows_the_map_its_features_are_the_mean_of(name: str) -> None:
    network = Network(FAMILIES[name], {"grey": ("a", "b"), "colour": ("c", "d", "e")})
    parameters = sum(p.numel() for p in network.parameters())
    assert 2_000_000 < parameters < 7_000_000
    with torch.no_grad():
        outputs = network.eval()(torch.rand(2, 3, 64, 96))
    assert outputs.cam.shape[2:] == (4, 6)
    assert outputs.features.numpy() == pytest.approx(outputs.cam.mean((2, 3)).numpy(), abs=1e-5)
    assert {task: tuple(v.shape) for task, v in outputs.logits.items()} == {
        "grey": (2, 2),
        "colour": (2, 3),
    }


def small_remover(name: str) -> nn.Module:
    widths = (4, 6, 8, 8, 8)
    network = Decomposing(widths, 4) if name == "wdnet" else SplitRefine(widths, widths[:4])
    initialise_remover(network, torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("name", sorted(REMOVERS))
def test_a_remover_changes_nothing_outside_its_mask(name: str) -> None:
    network = small_remover(name).eval()
    marked = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        found = network(marked)
        assert found.image.shape == marked.shape
        assert found.mask.shape == (2, 1, 48, 64)
        assert float((found.image - marked).abs().max()) > 0
        # The head of the mask says "no mark" everywhere.
        head = network.mask if name == "wdnet" else network.mask.head
        head.bias.fill_(-100.0)
        head.weight.zero_()
        assert torch.equal(network(marked).image, marked)


def test_the_removers_together_are_small() -> None:
    parameters = sum(p.numel() for make in REMOVERS.values() for p in make().parameters())
    assert 2 * parameters < 20_000_000


# Marks


def marked_batch(how: Marking, colour: bool = True) -> Marked:
    bank = torch.from_numpy(logo_bank(6, 0, 48))
    count = 6
    return mark(
        smooth(count, 64), bank, how, torch.Generator().manual_seed(2), torch.full((count,), colour)
    )


def test_logos_are_drawn_the_same_and_differ_from_each_other() -> None:
    logos = logo_bank(5, 7, 40)
    assert logos.shape == (5, 4, 40, 40)
    assert np.array_equal(logos, logo_bank(5, 7, 40))
    assert all(not np.array_equal(logos[i], logos[j]) for i in range(5) for j in range(i))
    assert (logos[:, 3].reshape(5, -1).max(axis=1) >= 128).all()


def test_a_marked_picture_is_the_blend_of_picture_and_mark() -> None:
    marked = marked_batch(Marking())
    blend = marked.alpha * marked.mark + (1 - marked.alpha) * marked.clean
    inside, outside = marked.mask > 0, marked.mask == 0
    step = 0.5 / 255 + 1e-5
    assert float(((marked.image - blend).abs() * inside).max()) <= step
    # Where the mark cannot be seen it may still be there, hardly.
    assert float(((marked.image - marked.clean).abs() * outside).max()) <= 2 / 255 + step
    levels = marked.image * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert (marked.mask.mean((1, 2, 3)) > 0.002).all()
    assert 0.25 < float(marked.alpha.max()) <= 0.9


def test_a_mark_that_nobody_can_see_is_not_in_the_mask() -> None:
    bank = torch.zeros(1, 4, 48, 48, dtype=torch.uint8)
    bank[:, 3] = 255
    generator = torch.Generator().manual_seed(0)
    black, light = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    plain = Marking(level=0.0)
    for _ in range(4):
        seed = int(torch.randint(1000, (1,), generator=generator))
        masks = [
            mark(
                clean, bank, plain, torch.Generator().manual_seed(seed), torch.tensor([True])
            ).mask.mean()
            for clean in (black, light)
        ]
        # The recolouring may have turned black into white.
        assert min(masks) == 0.0
        assert max(masks) > 0.02


def test_marks_may_lose_their_colours_and_be_left_out() -> None:
    dull = marked_batch(Marking(grey=0.5), colour=False).mark
    assert float((dull - dull[:, :1]).abs().max()) < 1e-3
    vivid = marked_batch(Marking(grey=0.0)).mark
    assert float((vivid - vivid[:, :1]).abs().max()) > 0.2
    marked = marked_batch(Marking())
    spared = train_remover.without(marked, torch.arange(6) < 3)
    assert float((spared.image[:3] - marked.clean[:3]).abs().max()) < 0.5 / 255 + 1e-5
    assert not spared.mask[:3].any()
    assert torch.equal(spared.image[3:], marked.image[3:])


def test_a_crop_cuts_the_same_place_out_of_everything() -> None:
    marked = marked_batch(Marking())
    cut = train_remover.cropped(marked, 32, torch.Generator().manual_seed(0))
    assert cut.image.shape == (6, 3, 32, 32)
    blend = cut.alpha * cut.mark + (1 - cut.alpha) * cut.clean
    assert float(((cut.image - blend).abs() * cut.mask).max()) <= 0.5 / 255 + 1e-5
    assert torch.equal(cut.mask.flatten(1).any(dim=1), marked.mask.flatten(1).any(dim=1))


# Quality


def test_quality_of_equal_and_of_different_pictures() -> None:
    picture = smooth(2, SIDE)
    assert psnr(picture, picture).tolist() == [PERFECT, PERFECT]
    assert ssim(picture, picture).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert psnr(picture, picture + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    noisy = picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert (ssim(noisy, picture) < 0.9).all()
    half, other = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    half[0, :, :2], other[0, :, 1:3] = 1, 1
    assert overlap(half, other).tolist() == pytest.approx([1 / 3, 1.0])


# Removal training and the bank's plans


def test_a_remover_learns_where_the_mark_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    widths = (8, 12, 16, 16, 16)
    monkeypatch.setattr(
        train_remover, "REMOVERS", MappingProxyType({"wdnet": lambda: Decomposing(widths, 8)})
    )
    for name, value in (("LEARNED_LOGOS", 4), ("CHOOSING_LOGOS", 4), ("CHOOSING_PICTURES", 8)):
        monkeypatch.setattr(train_remover, name, value)
    dark = (smooth(64, 32, 1) * 40 + 20).round().byte().numpy()
    task = TaskImages("grey", ("a",), dark, np.zeros(64, np.int64), np.arange(64).astype(str))
    recipe = train_remover.RemoverRecipe(
        remover="wdnet",
        tasks=("grey",),
        cycles=(10.0,),
        rates=(0.01,),
        sides=(32,),
        batch=8,
        picture_side=32,
        marking=Marking(alpha=(0.6, 0.6), size=(0.6, 0.9)),
    )
    part = train.Part((task,))
    trainer = train_remover.RemoverTrainer(recipe, part, part, CPU)
    run(trainer, tmp_path, resume=False)
    restored = Decomposing(widths, 8)
    restore(restored, torch.load(tmp_path / "best.pt", weights_only=True))
    with torch.no_grad():
        masks = [(restored(held.image).mask, held.mask) for held in trainer.held]
    found = torch.cat([overlap(mask, wanted) for mask, wanted in masks])
    assert float(found.mean()) > 0.25


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_plan_is_a_command_its_script_takes(tmp_path: Path, device: str) -> None:
    words = ["--runs", str(tmp_path), "--device", device, "--init", "weights.pth"]
    given = make_bank.arguments().parse_args(words)
    for plan in make_bank.PLANS:
        script = {
            "train": train,
            "train_remover": train_remover,
            "train_segmenter": train_segmenter,
        }[plan.script]
        parsed = script.arguments().parse_args(make_bank.train_arguments(plan, given, tmp_path))
        schedule = Schedule(**script.schedule_arguments(parsed))
        assert schedule.timed and parsed.budget > 0
        assert schedule.sides[-1] == 224 or plan.script == "train_remover"
        assert (getattr(parsed, "init_origin", "") == "") is (plan.name != "mobilenet-v2")


def test_a_plan_that_needs_weights_says_so(tmp_path: Path) -> None:
    given = make_bank.arguments().parse_args(["--runs", str(tmp_path), "--device", "cpu"])
    plan = next(plan for plan in make_bank.PLANS if plan.origin)
    with pytest.raises(ValueError, match="--init"):
        make_bank.train_arguments(plan, given, tmp_path)


def test_the_best_weights_are_collected(tmp_path: Path) -> None:
    (tmp_path / "runs" / "vgg").mkdir(parents=True)
    (tmp_path / "runs" / "vgg" / "best.pt").write_bytes(b"weights")
    make_bank.collect(make_bank.PLANS, tmp_path / "runs", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vgg.pt"]
