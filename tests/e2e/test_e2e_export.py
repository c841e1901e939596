"""From a checkpoint to a model that miad takes: tiny networks, through the real commands."""

from __future__ import annotations

import csv
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from miad_cli.models.bank import Surrogate
from miad_cli.models.session import Device
from training import (
    check,
    export,
    removal,
    runs,
    segmentation,
    train,
    train_remover,
    train_segmenter,
)
from training.architectures import ConvNorm, Family, Network, initialise
from training.data import SOURCES
from training.removers import Decomposing, initialise_remover
from training.segmenters import UNet, initialise_segmenter

pytestmark = [
    pytest.mark.slow,
    # What PyTorch's exporter says of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SIDE = 32
TASK = "brain_mri"
LABELS = tuple(sorted(name for source in SOURCES[TASK] for name in source.labels))


def tiny_trunk() -> tuple[nn.Module, int]:
    # Large enough that its kernels are stored in float16.
    return nn.Sequential(ConvNorm(3, 12, 3, 4), ConvNorm(12, 12, 3, 4)), 12


TINY = Family("tiny", tiny_trunk, (0.5,) * 3, (0.25,) * 3)


def tiny_remover() -> nn.Module:
    return Decomposing((4, 6, 8, 8, 12), 4)


def tiny_segmenter() -> nn.Module:
    return UNet((4, 8, 12, 12), (2,))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one task, and the tiny networks in the place of the real ones."""
    for module in (train, export):
        monkeypatch.setattr(module, "FAMILIES", MappingProxyType({"tiny": TINY}))
    monkeypatch.setattr(export, "REMOVERS", MappingProxyType({"tiny-remover": tiny_remover}))
    monkeypatch.setattr(export, "SEGMENTERS", MappingProxyType({"tiny-unet": tiny_segmenter}))
    monkeypatch.setattr(removal, "LOGOS", 4)
    rng = np.random.default_rng(1)
    root = tmp_path / "data"
    rows = []
    for label in LABELS:
        for i, split in enumerate(("train", "train", "test", "test", "test")):
            path = root / TASK / f"{label}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
            Image.fromarray(pixels).save(path)
            Image.fromarray(np.where(pixels > 200, 255, 0).astype(np.uint8)).save(
                path.with_suffix(".mask.png")
            )
            rows.append((path.name, label, split, f"{label}{i}", f"{path.stem}.mask.png"))
    with (root / TASK / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split", "group", "mask"))
        writer.writerows(rows)
    return root


def save_best(path: Path, network: nn.Module, recipe: runs.Schedule, facts: dict) -> None:
    """What a run leaves as ``best.pt``."""
    with torch.no_grad():
        network.train()(torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    progress = runs.Progress(1, 1, 0.0, (1.25,), 7.0, 1, 0.5, 1.0, SIDE)
    described = {"recipe": asdict(recipe), "progress": asdict(progress), "hardware": "a test"}
    runs.save(path, facts | described | runs.finished(network))


def export_classifier(root: Path, out: Path, checkpoint: Path) -> None:
    network = Network(TINY, {TASK: LABELS})
    initialise(network, torch.Generator().manual_seed(0))
    recipe = train.Recipe(family="tiny", tasks=(TASK,), sides=(SIDE,), timed=True)
    facts = {"kind": "classifier", "labels": {TASK: list(LABELS)}}
    save_best(checkpoint, network, recipe, facts)
    export.main(["--checkpoint", str(checkpoint), "--data", str(root), "--out", str(out)])


def export_remover(root: Path, out: Path, checkpoint: Path) -> None:
    network = tiny_remover()
    initialise_remover(network, torch.Generator().manual_seed(0))
    recipe = train_remover.RemoverRecipe(
        remover="tiny-remover", tasks=(TASK,), sides=(16,), picture_side=SIDE
    )
    save_best(checkpoint, network, recipe, {"kind": "remover"})
    words = ["--checkpoint", str(checkpoint), "--data", str(root), "--out", str(out)]
    export.main([*words, "--limit", "7"])


def test_what_is_exported_is_checked_measured_and_taken_by_miad(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, remover = tmp_path / "bank" / "tiny", tmp_path / "bank" / "tiny-remover"
    export_classifier(data, classifier, tmp_path / "classifier.pt")
    export_remover(data, remover, tmp_path / "remover.pt")

    kinds = {t.data_type for t in onnx.load(classifier / "model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    described = tomllib.loads((classifier / "manifest.toml").read_text(encoding="utf-8"))
    assert described["made"]["command"].startswith("python -m training.train --family tiny ")
    assert "--epochs 1.25 " in described["made"]["command"]  # a timed run, by what it came to
    assert [entry["images"] for entry in described["data"]] == [6, 2]
    assert described["accuracy"][0]["images"] == 12

    altered = export.load_trained(tmp_path / "classifier.pt").network
    with torch.no_grad():
        altered.heads[TASK].weight[0] += 0.1
    with pytest.raises(ValueError, match="differs from the network"):
        export.check_parity(altered, classifier / "model.onnx", SIDE)

    about = tomllib.loads((remover / "manifest.toml").read_text(encoding="utf-8"))["accuracy"][0]
    assert (about["images"], about["classifiers"]) == (7, 1)
    assert 0 <= about["mask_iou"] <= 1
    assert 5 < about["marked_psnr"] < 60

    # miad's own reading of both: manifest, ONNX Runtime, gradients.
    one = Surrogate(classifier, Device())
    assert one.manifest.output_for(TASK).labels == LABELS
    assert one.differentiable.cam(np.full((3, SIDE, SIDE), 0.5, np.float32), TASK, 0).shape == (
        12,
        2,
        2,
    )
    assert Surrogate(remover, Device()).manifest.image.tensor == "image"

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        check.main([str(classifier), str(remover), "--data", str(data)])
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    assert f"{described['accuracy'][0]['balanced_accuracy']:.3f}" in printed.splitlines()[-1]

    removal.main([str(remover), "--data", str(data), "--limit", "7"])
    assert f"{about['psnr']:.2f}" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    removal.main([str(remover), "--data", str(data), "--sheet", str(sheet)])
    assert Image.open(sheet).size == (4 * SIDE, 10 * SIDE)

    model = remover / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(SystemExit) as ended:
        check.main([str(remover), "--data", str(data)])
    assert ended.value.code == 1
    assert "SHA-256 does not match" in capsys.readouterr().out


def test_a_segmenter_is_exported_checked_measured_and_taken_by_miad(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny_segmenter()
    initialise_segmenter(network, torch.Generator().manual_seed(0))
    recipe = train_segmenter.SegmenterRecipe(
        segmenter="tiny-unet", tasks=(TASK,), sides=(16, SIDE), cycles=(1, 1), rates=(1, 1)
    )
    save_best(tmp_path / "best.pt", network, recipe, {"kind": "segmenter"})
    folder = tmp_path / "bank" / "tiny-lesion"
    words = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(data), "--out", str(folder)]
    export.main(words)

    one = Surrogate(folder, Device())
    assert (one.manifest.role, one.manifest.mask.labels) == (
        "segmentation",
        ("background", "lesion"),
    )
    assert (one.manifest.input.rows, one.manifest.input.fit) == (SIDE, "pad")
    assert one.manifest.made.command.startswith(
        "python -m training.train_segmenter --segmenter tiny-unet --tasks brain_mri "
    )
    stated = one.manifest.accuracy[0].model_dump()
    assert (stated["images"], len(one.manifest.data)) == (12, 2)

    # The figures again, from miad's own reading of pictures, masks and network.
    same, right = [], []
    for path in sorted(data.glob(f"{TASK}/*[234].png")):
        shown = np.repeat(np.asarray(Image.open(path))[None, None] / np.float32(255), 3, axis=1)
        found = one.session.masks(one.session.run(shown))[0, 0] >= 0.5
        truth = np.asarray(Image.open(path.with_suffix(".mask.png"))) > 0
        same.append((found & truth).sum() / (found | truth).sum())
        right.append((found == truth).mean())
    assert len(same) == 12
    assert stated["iou"] == pytest.approx(np.mean(same), abs=1e-3)
    assert stated["accuracy"] == pytest.approx(np.mean(right), abs=1e-3)

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        check.main([str(folder), "--data", str(data)])
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    assert f"iou {stated['iou']}" in printed
    segmentation.main([str(folder), "--data", str(data)])
    assert f"uncovered {stated['uncovered']}" in capsys.readouterr().out
    segmentation.main([str(folder), "--data", str(data), "--sheet", str(tmp_path / "sheet.png")])
    assert Image.open(tmp_path / "sheet.png").size == (4 * SIDE, 10 * SIDE)

    manifest = folder / "manifest.toml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace(f"iou = {stated['iou']}", "iou = 0.999"), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        check.main([str(folder), "--data", str(data)])
    assert ended.value.code == 1
    assert "the manifest states other figures" in capsys.readouterr().out
