"""The adaptive attack: an infringer who trains a classifier on protected pictures.

Pictures are as they are shown: (rows, columns, 1 or 3) uint8, grey or RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miad_cli.errors import ModelUnusable
from miad_cli.evaluation.pixels import Float, Picture, windowed
from miad_cli.models.bank import Surrogate
from miad_cli.models.session import model_input
from miad_cli.models.view import view_for


@dataclass(frozen=True, eq=False)
class Adapted:
    """A classifier that learned from protected pictures.

    `how` is what `fine_tuned` was asked for, `pictures` how many it learned from and `fit` its
    accuracy on those, which says whether it learned, not what it can do: judge it on pictures of
    other patients. `probabilities` takes pictures and gives (N, classes), float32.
    """

    how: Literal["head", "all"]
    pictures: int
    fit: float
    probabilities: Callable[[Sequence[Picture]], Float]


def fine_tuned(
    surrogate: Surrogate,
    task: str,
    pictures: Sequence[Picture],
    labels: ArrayLike,
    generator: np.random.Generator,
    *,
    how: Literal["head", "all"] = "head",
    penalty: float = 1.0,
    epochs: int = 3,
    rate: float = 1e-4,
    batch: int = 16,
) -> Adapted:
    """What an infringer gets who trains the classifier on protected pictures and their labels.

    `head` keeps the network as it is and puts a fresh linear layer on the features that its
    manifest names: multinomial logistic regression on the standardised features (those that do
    not vary are left out), with `penalty` / 2 times the squared weights (not the biases) added to
    the summed cross-entropy, solved to the end by L-BFGS. It has one solution and takes nothing
    from `generator`. It shows what the features still hold of the diagnosis, the least that an
    infringer can get.

    `all` goes on training every weight of the network, converted to torch, its own last layer
    included: Adam with the step size `rate` on the mean cross-entropy, `epochs` times through the
    pictures in the order that `generator` gives, `batch` at a time. No augmentation, no schedule,
    and batch normalisations that were folded at export stay folded. A full training with all the
    pictures that an infringer may have can do better: this is a lower bound, too. The surrogate
    itself is left as it was. Half-precision weights learn in float32.

    `labels` (N,) are classes of `task` in the order in which the surrogate answers.

    Raises:
        ModelUnusable: the model is no classifier of this task, names no features (`head`), or
            cannot be converted or trained (`all`).
        ValueError: pictures and labels do not belong together, or are of fewer than two classes.
    """
    classes = len(surrogate.session.columns(task))
    targets = np.asarray(labels)
    if targets.shape != (len(pictures),) or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"{len(pictures)} pictures do not go with labels {targets.shape}")
    if len(np.unique(targets)) < 2 or targets.min() < 0 or targets.max() >= classes:
        raise ValueError(f"labels are to be of two or more of {classes} classes")
    if how == "head":
        answer = _with_fresh_head(surrogate, pictures, targets, classes, penalty)
    else:
        order = (generator.permutation(len(pictures)) for _ in range(epochs))
        answer = _trained_on(surrogate, task, pictures, targets, order, rate, batch)
    fit = float((answer(pictures).argmax(axis=1) == targets).mean())
    return Adapted(how, len(pictures), fit, answer)


def _with_fresh_head(
    surrogate: Surrogate,
    pictures: Sequence[Picture],
    targets: NDArray[Any],
    classes: int,
    penalty: float,
) -> Callable[[Sequence[Picture]], Float]:
    features = _features(surrogate, pictures)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A feature that is the same everywhere would blow up its rounding errors.
    scale = np.where(deviation > 1e-6 * (np.abs(mean) + 1e-6), 1 / np.maximum(deviation, 1e-12), 0)
    weights, biases = logistic_regression((features - mean) * scale, targets, classes, penalty)

    def answer(asked: Sequence[Picture]) -> Float:
        scores = ((_features(surrogate, asked) - mean) * scale) @ weights + biases
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        result: Float = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        return result

    return answer


def logistic_regression(
    features: NDArray[np.float64], targets: NDArray[Any], classes: int, penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (features, classes) and biases (classes,) of the multinomial logistic regression of
    `targets` (N,) on `features` (N, features): least summed cross-entropy plus `penalty` / 2
    times the squared weights. What scikit-learn's `LogisticRegression(C=1 / penalty)` finds."""
    import torch

    given, wanted = torch.from_numpy(features), torch.from_numpy(targets.astype(np.int64))
    weights = torch.zeros(features.shape[1], classes, dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, biases],
        max_iter=1000,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Any:
        solver.zero_grad()
        entropy = torch.nn.functional.cross_entropy(given @ weights + biases, wanted)
        total = entropy + penalty / 2 * weights.square().sum() / len(given)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), biases.detach().numpy()


def _features(surrogate: Surrogate, pictures: Sequence[Picture]) -> NDArray[np.float64]:
    """(N, features) of the tensor that the manifest names."""
    manifest = surrogate.manifest
    if manifest.features is None:
        raise ModelUnusable(
            f"{manifest.name} names no feature tensor to put a fresh head on",
            hint="Fine-tune all of its weights instead.",
        )
    parts = [
        surrogate.session.run(views)[manifest.features.tensor].reshape(len(views), -1)
        for views in _batches(surrogate, pictures, np.arange(len(pictures)), 32)
    ]
    return np.concatenate(parts).astype(np.float64)


def _trained_on(
    surrogate: Surrogate,
    task: str,
    pictures: Sequence[Picture],
    targets: NDArray[Any],
    orders: Iterator[NDArray[np.intp]],
    rate: float,
    batch: int,
) -> Callable[[Sequence[Picture]], Float]:
    import torch

    model, weights = _trainable(surrogate)
    spec = surrogate.manifest.input
    solver = torch.optim.Adam(weights, lr=rate)
    for order in orders:
        starts = range(0, len(order), batch)
        views = _batches(surrogate, pictures, order, batch)
        for start, part in zip(starts, views, strict=True):
            wanted = torch.from_numpy(targets[order[start : start + batch]].astype(np.int64))
            scores = model.scores(model(torch.from_numpy(model_input(part, spec))), task)
            loss = torch.nn.functional.cross_entropy(scores, wanted)
            if not torch.isfinite(loss):
                raise ModelUnusable(
                    f"{surrogate.manifest.name}: training went astray",
                    hint="Take a smaller step size.",
                )
            solver.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            solver.step()

    def answer(asked: Sequence[Picture]) -> Float:
        parts = []
        with torch.no_grad():
            for part in _batches(surrogate, asked, np.arange(len(asked)), 32):
                scores = model.scores(model(torch.from_numpy(model_input(part, spec))), task)
                parts.append(scores.softmax(dim=1).numpy())
        return np.concatenate(parts)

    return answer


def _trainable(surrogate: Surrogate) -> tuple[Any, list[Any]]:
    """A copy of the surrogate's torch conversion, and its weights, which learn.

    The converter keeps weights as buffers, in the precision in which the file stores them.
    """
    import copy

    if surrogate.manifest.input.dtype == "float16":
        raise ModelUnusable(f"{surrogate.manifest.name} computes in half precision: not trainable")
    model = copy.copy(surrogate.differentiable)
    model._module = copy.deepcopy(model._module)
    weights = []
    for part in model._module.modules():
        for name, value in (*part._buffers.items(), *part._parameters.items()):
            if value is not None and value.is_floating_point() and value.numel() > 1:
                weight = value.detach().float().requires_grad_()
                kept: dict[str, Any] = part._buffers if name in part._buffers else part._parameters
                kept[name] = weight
                weights.append(weight)
    if not weights:
        raise ModelUnusable(f"{surrogate.manifest.name} has no weights that could learn")
    return model, weights


def _batches(
    surrogate: Surrogate, pictures: Sequence[Picture], order: NDArray[np.intp], size: int
) -> Iterator[Float]:
    """Views (at most `size`, 3, rows, columns) in 0..1 of pictures in the given order."""
    spec = surrogate.manifest.input
    for start in range(0, len(order), size):
        chosen = [pictures[index] for index in order[start : start + size]]
        yield np.stack([view_for(spec, *one.shape[:2]).of(windowed(one)) for one in chosen]).astype(
            np.float32
        )
