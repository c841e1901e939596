"""δ: a small change of the picture below the logo that carries to models nobody has seen.

MIAD-MARK aims its δ at removal networks alone (Eq. 1 to 4); here it is aimed at the classifiers'
margin as well, with the logo in place. Momentum sign steps (MI-FGSM) go up the mean of the models'
gradients, each of which counts the same; every look at the picture goes through another random
transform, so that what is found does not hang on one model's pixels. All of it happens on the
canvas of a scene (`scenes.py`), which is what models look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import ModelUnusable
from miad_cli.models.bank import Surrogate
from miad_cli.watermark.delta import Delta
from miad_cli.watermark.onlookers import Onlooker, device_of
from miad_cli.watermark.scenes import Scene, Stage, planes_of, seen_again, stacked, staged
from miad_cli.watermark.transforms import draw
from miad_cli.watermark.visibility import bounds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Gradient = Callable[[Tensor, int], Tensor]

_LARGEST = 127
"""What a cell of δ can hold."""


@dataclass(frozen=True)
class Weights:
    """How much each aim counts, relative to the others; 0 leaves it out.

    Attributes:
        classifiers: the margin of the label over the best other class, which is to go down.
        features: how far features move, where no label is known.
        disrupt: δ_D, how far a removal network's output is from the clean picture (Eq. 3).
        inerase: δ_I, how little it finds and changes (Eq. 4).
        gamma: of Eq. 4, what the picture counts against the mask; the paper gives no value. Both
            are root mean squares on the scale 0..1, so 1 weighs them the same.
    """

    classifiers: float = 1.0
    features: float = 1.0
    disrupt: float = 1.0
    inerase: float = 0.0
    gamma: float = 1.0


@dataclass(frozen=True)
class Attack:
    """How δ is made.

    Attributes:
        epsilon: the largest change, in 1/255 of the display window.
        shaped: whether flat ground, where the eye sees more, gets less of it.
        step_size: length of a step, in the same unit.
        steps: how many.
        momentum: what of the steps before goes into the next one.
        models_per_step: how many classifiers are asked in a step, drawn at random; 0: all.
        remover_every: every so manieth step asks one removal network, drawn at random.
        transforms: whether models look through random transforms.
        coarse: whether models may compute in bfloat16, where the CPU does so itself.
    """

    epsilon: float = 8.0
    shaped: bool = True
    step_size: float = 2.0
    steps: int = 20
    momentum: float = 1.0
    models_per_step: int = 0
    remover_every: int = 3
    transforms: bool = True
    coarse: bool = True
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True, eq=False)
class Target:
    """What one δ is made for: a frame, or several of one size that share it.

    `label` is the class that is to be lost, None where nobody knows it; `start` is a δ to begin
    with, such as that of the slice before.
    """

    scenes: tuple[Scene, ...]
    label: int | None = None
    start: Delta | None = None


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A δ and how it came about.

    Attributes:
        losses: for each step the mean over its classifiers of what was to go up, before the
            step: the best other class's logit minus the label's, or the relative distance of the
            features.
        gradients: how often a model was differentiated for it.
    """

    delta: Delta
    losses: tuple[float, ...]
    gradients: int


def perturb(
    scenes: Scene | Sequence[Scene],
    surrogates: Sequence[Surrogate],
    removers: Sequence[Surrogate],
    task: str | None,
    label: int | None,
    attack: Attack,
    generator: np.random.Generator,
    start: Delta | None = None,
) -> Perturbed:
    """A δ for one frame, or one for several frames of the same size: `perturb_many` for one.

    Raises:
        ModelUnusable: none of the models gives the gradients that are needed.
    """
    frames = (scenes,) if isinstance(scenes, Scene) else tuple(scenes)
    target = Target(frames, label, start)
    return perturb_many([target], surrogates, removers, task, attack, generator)[0]


def perturb_many(
    targets: Sequence[Target],
    surrogates: Sequence[Surrogate],
    removers: Sequence[Surrogate],
    task: str | None,
    attack: Attack,
    generator: np.random.Generator,
) -> list[Perturbed]:
    """A δ for each target, all in the same batches; their pictures must have one size.

    Each comes out as it would alone: a batch shares its random draws. Where a target has several
    scenes they are looked at in turn. Without `task` δ moves the models' features as far as it
    can, as nothing else is known of them.

    Raises:
        ModelUnusable: none of the models gives the gradients that are needed.
        ValueError: the pictures have different sizes, or a task is given and a label is not.
    """
    import torch

    aims = _Aims(targets, surrogates, removers, task, attack, generator)
    low, high = aims.limits
    start = torch.stack([planes_of(_begun(one), aims.device) for one in targets])
    if task is None:
        # The features of an untouched picture have not moved, in no direction rather than another.
        start = start + torch.rand(start.shape[1:], generator=aims.generator).sub(0.5).sign().to(
            aims.device
        )
    found = ascend(aims.gradient, start, low, high, attack)
    grids = _whole(found, low, high).permute(0, 2, 3, 1).to("cpu", torch.int8).numpy()
    losses = torch.stack(aims.losses).T.tolist() if aims.losses else [[] for _ in targets]
    return [
        Perturbed(Delta(np.ascontiguousarray(grid)), tuple(course), aims.gradients)
        for grid, course in zip(grids, losses, strict=True)
    ]


def _begun(target: Target) -> NDArray[Any]:
    """What to begin with, (rows, columns, samples)."""
    shape = target.scenes[0].canvas.shape
    if target.start is None:
        return np.zeros(shape)
    if target.start.grid.shape != shape:
        raise ValueError("the perturbation to begin with is of another size")
    return target.start.grid


# --- The ascent -------------------------------------------------------------------------------


def ascend(gradient: Gradient, start: Tensor, low: Tensor, high: Tensor, attack: Attack) -> Tensor:
    """Momentum sign steps (MI-FGSM; Eq. 1 with momentum) within `low`..`high`.

    `gradient` gives, for δ (n, samples, rows, columns) and the number of the step, what δ is to
    follow; all in units of 1/255.
    """
    delta = project(start, low, high)
    velocity = delta.new_zeros(delta.shape)
    for step in range(attack.steps):
        velocity = attack.momentum * velocity + normalize(gradient(delta, step))
        delta = project(delta + attack.step_size * velocity.sign(), low, high)
    return delta


def normalize(gradient: Tensor) -> Tensor:
    """Each of a batch divided by its mean absolute value, so that all count the same."""
    return gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-20)


def project(delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Onto the box low..high."""
    return delta.clamp(low, high)


def _whole(delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whole numbers within the bounds."""
    return delta.round().clamp(low.ceil(), high.floor())


# --- What δ is to follow ----------------------------------------------------------------------


class _Aims:
    """The models in front of the targets: asks some of them in every step and counts."""

    def __init__(
        self,
        targets: Sequence[Target],
        surrogates: Sequence[Surrogate],
        removers: Sequence[Surrogate],
        task: str | None,
        attack: Attack,
        generator: np.random.Generator,
    ) -> None:
        import torch

        sizes = {(one.picture, one.canvas.shape) for target in targets for one in target.scenes}
        if len(sizes) != 1:
            raise ValueError("the pictures of a batch must have one size")
        if task is not None and any(one.label is None for one in targets):
            raise ValueError("a task needs the label that is to be lost")
        self.task, self.attack = task, attack
        self.losses: list[Tensor] = []
        self.gradients = 0
        self._draw = generator
        self.generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
        size = targets[0].scenes[0].canvas.shape[:2]
        able = [one for one in surrogates if one.gradients]
        able = able if task else [one for one in able if one.manifest.features]
        self.device = device_of([*able, *removers])
        weight = attack.weights.classifiers if task else attack.weights.features
        self._classifiers = [
            Onlooker(one, size, self.device, attack.coarse) for one in able if weight > 0
        ]
        removal = attack.weights.disrupt > 0 or attack.weights.inerase > 0
        self._removers = [
            Onlooker(one, size, self.device, attack.coarse)
            for one in removers
            if removal and one.gradients
        ]
        if not self._classifiers and not self._removers:
            raise ModelUnusable(
                "none of the models gives the gradients that the perturbation is made with"
            )
        self._weight = weight
        self._labels = torch.tensor([one.label or 0 for one in targets], device=self.device)
        self._scenes = [[staged(one, self.device) for one in each.scenes] for each in targets]
        self._clean: dict[tuple[int, ...], Tensor] = {}
        self._enlarged = seen_again(*targets[0].scenes[0].picture, self.device)
        limits = [_limits(one, attack, self.device) for one in targets]
        self.limits = tuple(torch.stack(each) for each in zip(*limits, strict=True))

    def gradient(self, delta: Tensor, step: int) -> Tensor:
        """The weighted sum of the gradients of the models that are asked in this step."""
        import torch

        turns = tuple(step % len(one) for one in self._scenes)
        stage = stacked([one[turn] for one, turn in zip(self._scenes, turns, strict=True)])
        leaf = delta.detach().requires_grad_()
        down, across = self._enlarged
        pictures = stage.after((down @ leaf @ across.T) / 255)
        total = torch.zeros_like(delta)
        chosen, rises = self._chosen(), []
        for number in chosen:
            rise = self._rise(number, pictures, stage, turns)
            rises.append(rise.detach())
            total += self._slope(rise, leaf) * (self._weight / len(chosen))
        if rises:
            self.losses.append(torch.stack(rises).mean(dim=0))
        for weight, rise in self._removal(pictures, stage, step):
            total += self._slope(rise, leaf) * weight
        return total

    def _slope(self, rise: Tensor, leaf: Tensor) -> Tensor:
        import torch

        self.gradients += 1
        (slope,) = torch.autograd.grad(rise.sum(), leaf, retain_graph=True)
        return normalize(slope)

    def _chosen(self) -> list[int]:
        """The numbers of the classifiers that are asked in this step."""
        count, wanted = len(self._classifiers), self.attack.models_per_step
        if not 0 < wanted < count:
            return [*range(count)]
        return sorted(self._draw.choice(count, wanted, replace=False).tolist())

    def _rise(self, number: int, pictures: Tensor, stage: Stage, turns: tuple[int, ...]) -> Tensor:
        """(n,): what is to go up with one classifier, through a transform of its own."""
        import torch

        onlooker = self._classifiers[number]
        transform = draw(self.generator) if self.attack.transforms else None
        answers = onlooker.answers(transform(pictures) if transform else pictures)
        if self.task is not None:
            scores = onlooker.differentiable.scores(answers, self.task)
            return margin(scores, self._labels)
        key = (number, *turns)
        if key not in self._clean:
            with torch.no_grad():
                self._clean[key] = onlooker.features(onlooker.answers(stage.canvas))
        clean = self._clean[key]
        return _length(onlooker.features(answers) - clean) / _length(clean).clamp_min(1e-12)

    def _removal(self, pictures: Tensor, stage: Stage, step: int) -> Iterator[tuple[float, Tensor]]:
        """What is to go up with one removal network, and how much it counts (Eq. 3 and 4)."""
        if not self._removers or step % self.attack.remover_every:
            return
        weights = self.attack.weights
        onlooker = self._removers[int(self._draw.integers(len(self._removers)))]
        given = onlooker.view(pictures)
        restored, mask = onlooker.restored(given)
        if weights.disrupt > 0:
            yield weights.disrupt, _root_mean_square(onlooker.view(stage.canvas) - restored)
        if weights.inerase > 0:
            # As printed, Eq. 4 compares with the clean picture, which asks for a logo well
            # removed; with the marked one, as where it comes from, it asks for one left alone.
            left = weights.gamma * _root_mean_square(given - restored) + _root_mean_square(mask)
            yield weights.inerase, -left / 2


def margin(scores: Tensor, labels: Tensor) -> Tensor:
    """(n,): the best other class's logit minus the label's, for logits (n, classes); above 0 the
    model is fooled."""
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - own


def _limits(target: Target, attack: Attack, device: torch.device) -> tuple[Tensor, Tensor]:
    """How far δ may go down and up, (samples, rows, columns) each, in whole 1/255.

    A change that leads beyond black or white is not carried out, so none is made; and where
    several scenes share δ, the tightest of them counts.
    """
    down, up = [], []
    for scene in target.scenes:
        reach = bounds(scene.canvas, attack.epsilon, attack.shaped, scene.allowed)
        reach = np.minimum(reach * (scene.open > 0), _LARGEST)
        unit = max(scene.unit, 1e-6)
        down.append(np.minimum(reach, 255 * scene.canvas / unit))
        up.append(np.minimum(reach, 255 * (1 - scene.canvas) / unit))
    low, high = (np.floor(np.min(each, axis=0) + 1e-3) for each in (down, up))
    return planes_of(-low, device), planes_of(high, device)


def _length(vectors: Tensor) -> Tensor:
    import torch

    length: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return length


def _root_mean_square(values: Tensor) -> Tensor:
    """(n,): over everything but the first axis; its slope at nothing is nothing."""
    flat = values.flatten(1)
    mean: Tensor = _length(flat) / flat.shape[1] ** 0.5
    return mean
