"""Training that goes on from a model that ships, and the perceptual loss of removal networks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from miad_cli.shipped import models_directory
from training import train_remover
from training.architectures import FAMILIES, ConvNorm, Network
from training.removers import REMOVERS
from training.weights import load_shipped, read_weights

CPU = torch.device("cpu")


def network_like(path: Path, name: str) -> nn.Module:
    if name in REMOVERS:
        return REMOVERS[name]()
    outputs = {one.name: one for one in onnx.load(path).graph.output}
    tasks = {task: out for task, out in outputs.items() if task not in ("features", "cam")}
    counts = {task: out.type.tensor_type.shape.dim[1].dim_value for task, out in tasks.items()}
    return Network(FAMILIES[name], {t: [*map(str, range(n))] for t, n in counts.items()})


@pytest.mark.parametrize("name", ["resnet", "vit", "wdnet", "split-refine"])
def test_training_goes_on_where_the_shipped_model_stands(name: str) -> None:
    """The function is the file's, though its norms can be trained again."""
    import onnxruntime

    path = models_directory() / name / "model.onnx"
    network = network_like(path, name)
    pictures = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    missing = load_shipped(network, read_weights(path), pictures)
    # The branch for the mark itself does not ship.
    assert all(one.startswith("mark.") for one in missing)
    assert bool(missing) == (name == "split-refine")
    assert any(isinstance(one, nn.BatchNorm2d) for one in network.modules())
    with torch.no_grad():
        found = network.eval()(pictures[:1])
    found = found.image if name in REMOVERS else found.logits["fundus"]
    wanted = "image" if name in REMOVERS else "fundus"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run([wanted], {"input": pictures[:1].numpy()})
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_weights_of_another_network_are_refused() -> None:
    weights = read_weights(models_directory() / "resnet" / "model.onnx")
    with pytest.raises(ValueError, match="another network"):
        load_shipped(nn.Sequential(ConvNorm(3, 4)), weights, torch.rand(2, 3, 8, 8))
    wider = nn.ModuleDict({"trunk": nn.Sequential(ConvNorm(3, 16, 7))})
    with pytest.raises(ValueError, match=r"is \(32, 3, 7, 7\), not \(16, 3, 7, 7\)"):
        load_shipped(wider, weights, torch.rand(2, 3, 8, 8))


def test_the_judge_sees_what_differs_and_how_to_make_it_less() -> None:
    path = models_directory() / "vgg" / "model.onnx"
    judge = train_remover.Judge(path, "vgg", CPU)
    wanted = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    near, far = (wanted + 0.02).requires_grad_(), wanted + 0.2
    assert judge(wanted, wanted).item() == 0
    apart = judge(near, wanted)
    assert 0 < apart.item() < judge(far, wanted).item()
    (slope,) = torch.autograd.grad(apart, near)
    downhill = near - 0.1 * apart * slope / slope.square().sum()
    assert judge(downhill, wanted).item() < apart.item()
