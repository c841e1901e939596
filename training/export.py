"""Write a trained network as ``model.onnx`` with its manifest: ``python -m training.export``."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.architectures import FAMILIES, Network, fold_norms
from training.check import (
    TOLERANCE,
    Accuracy,
    converted_gradients,
    import_in_torch,
    measure,
    run_onnx,
    session,
)
from training.data import SOURCES, data_root, load_split

OPSET = 18
# Smaller tensors (biases, shapes) stay as they are: little to save, and biases need the range.
SMALLEST_HALF = 1024


@dataclass(frozen=True)
class Trained:
    """A network with folded, rounded weights, in eval mode, and what made it."""

    network: Network
    recipe: dict[str, Any]
    labels: dict[str, list[str]]
    progress: dict[str, Any]
    hardware: str


class Exported(nn.Module):
    """A network with its outputs in the order and under the names of the file."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.names = (*network.heads, "features", "cam")

    def forward(self, model_input: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, rows, columns) to the logits of every task, ``features`` and ``cam``."""
        outputs = self.network(model_input)
        return (*outputs.logits.values(), outputs.features, outputs.cam)


def load_trained(checkpoint: Path) -> Trained:
    """Read a checkpoint of ``training.train``; fold its norms, round its weights to float16."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = Network(FAMILIES[stored["recipe"]["family"]], stored["labels"])
    network.load_state_dict(stored["network"])
    network.eval()
    fold_norms(network)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.numel() >= SMALLEST_HALF:
                weights.copy_(weights.half().float())
                if not torch.isfinite(weights).all():
                    raise ValueError("a weight does not fit into float16")
    return Trained(
        network, stored["recipe"], stored["labels"], stored["progress"], stored["hardware"]
    )


def to_onnx(network: Network, side: int) -> onnx.ModelProto:
    """Trace ``network`` into a model with a dynamic batch and float16 weights."""
    exported = Exported(network).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            exported,
            (torch.zeros(2, 3, side, side),),
            str(path),
            input_names=["input"],
            output_names=list(exported.names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
        model = onnx.load(path)
    _strip(model)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _strip(model: onnx.ModelProto) -> None:
    # The exporter records source lines and shapes of every node: of no use, and not ours to ship.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
    for weights in model.graph.initializer:
        weights.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")


def store_half(model: onnx.ModelProto) -> None:
    """Store large float32 initialisers as float16 with a Cast to float32 behind each, in place."""
    casts = []
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if weights.data_type != TensorProto.FLOAT or values.size < SMALLEST_HALF:
            continue
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check_parity(network: Network, path: Path, side: int, seed: int) -> dict[str, float]:
    """Compare the file with ``network``: the largest differences, by name.

    Outputs by ONNX Runtime at batch 1 and 16, then outputs, input gradient and Grad-CAM
    gradient by the torch conversion of the file.

    Raises:
        ValueError: a difference exceeds 1e-3 of the largest value.
    """
    rng = np.random.default_rng(seed)
    runner = session(path)
    found: dict[str, float] = {}
    for count in (1, 16):
        probe = rng.standard_normal((count, 3, side, side), np.float32)
        with torch.no_grad():
            wanted = Exported(network)(torch.from_numpy(probe))
        for name, value in zip(Exported(network).names, wanted, strict=True):
            got = run_onnx(runner, probe)[name]
            found[f"{name}, batch {count}"] = relative_difference(got, value.numpy())
    module, names = import_in_torch(path)
    for task in network.heads:
        logits, by_input, by_cam = converted_gradients(module, names, task, probe[:4])
        x = torch.from_numpy(probe[:4]).requires_grad_()
        outputs = network(x)
        chosen = outputs.logits[task].amax(1).sum()
        in_torch = torch.autograd.grad(chosen, [x, outputs.cam])
        found[f"{task}, converted"] = relative_difference(
            logits, outputs.logits[task].detach().numpy()
        )
        found[f"{task}, input gradient"] = relative_difference(by_input, in_torch[0].numpy())
        found[f"{task}, cam gradient"] = relative_difference(by_cam, in_torch[1].numpy())
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise ValueError(f"the exported file differs from the network: {wrong}")
    return found


def relative_difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a fraction of the largest wanted magnitude."""
    scale = max(float(np.abs(wanted).max()), 1e-12)
    return float(np.abs(got - wanted).max()) / scale


def train_command(recipe: dict[str, Any]) -> str:
    """The command that repeats the training run."""
    initial = "" if recipe["init"] == "scratch" else " --init FILE"
    cycles, rates = (",".join(map(str, recipe[key])) for key in ("cycles", "rates"))
    return (
        f"python -m training.train --family {recipe['family']} --tasks {','.join(recipe['tasks'])}"
        f" --data DIR --out DIR --epochs {cycles} --rate {rates}"
        f" --batch {recipe['batch']} --seed {recipe['seed']}{initial}"
    )


def manifest(
    name: str, trained: Trained, sha256: str, root: Path, measured: Sequence[Accuracy]
) -> str:
    """The text of ``manifest.toml``."""
    recipe, family = trained.recipe, FAMILIES[trained.recipe["family"]]
    side = recipe["side"]
    head: dict[str, Any] = {"schema": 1, "name": name, "family": family.name}
    head |= {"role": "classifier", "file": "model.onnx", "sha256": sha256}
    parts = [_lines(head)]
    tensor: dict[str, Any] = {"tensor": "input", "layout": "NCHW", "rows": side, "columns": side}
    tensor |= {"channels": 3, "range": [0.0, 1.0], "mean": list(family.mean)}
    tensor |= {"std": list(family.std), "fit": "pad"}
    parts.append("[input]\n" + _lines(tensor))
    for task, labels in trained.labels.items():
        output = {"task": task, "tensor": task, "kind": "logits", "labels": labels}
        parts.append("[[outputs]]\n" + _lines(output))
    parts += ['[features]\ntensor = "features"\n', '[cam]\ntensor = "cam"\n']
    parts += ["[[data]]\n" + _lines(entry) for entry in data_entries(root, trained)]
    parts += ["[[accuracy]]\n" + _lines(accuracy.entry(name)) for accuracy in measured]
    made = {
        "command": train_command(recipe),
        "init": recipe["init"],
        "epochs": sum(recipe["cycles"]),
    }
    made |= {"seconds": round(trained.progress["seconds"]), "hardware": trained.hardware}
    parts.append("[made]\n" + _lines(made | {"seed": recipe["seed"]}))
    return "\n".join(parts)


def data_entries(root: Path, trained: Trained) -> list[dict[str, Any]]:
    """One entry for every public data set that the network has learned from."""
    entries = []
    for task in trained.labels:
        images = load_split(root, task, "train", 8)
        for source in SOURCES[task]:
            own = [images.labels.index(label) for label in source.labels]
            count = int(np.isin(images.targets, own).sum())
            entry: dict[str, Any] = {"task": task, "name": source.name}
            entries.append(entry | {"licence": source.licence, "images": count})
    return entries


def _lines(entries: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in entries.items())


def _value(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt of a run")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export, compare with torch, measure, and write the manifest."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    trained = load_trained(given.checkpoint)
    given.out.mkdir(parents=True, exist_ok=True)
    path: Path = given.out / "model.onnx"
    side = trained.recipe["side"]
    path.write_bytes(to_onnx(trained.network, side).SerializeToString())
    for name, difference in check_parity(trained.network, path, side, 0).items():
        print(f"{name}: {difference:.1e}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    family = FAMILIES[trained.recipe["family"]]
    measured = [
        measure(path, task, load_split(root, task, "test", side), family.mean, family.std)
        for task in trained.labels
    ]
    for accuracy in measured:
        print(accuracy)
    text = manifest(given.out.name, trained, sha256, root, measured)
    (given.out / "manifest.toml").write_text(text, encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, epoch {trained.progress['best_epoch']}")


if __name__ == "__main__":
    main()
