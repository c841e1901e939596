"""Networks that take a visible mark off a picture: two designs, written after their descriptions.

Pictures go in and come out as (N, 3, rows, columns) float32 in 0..1, rows and columns multiples
of 16. Both are far slimmer than the published ones, so that a gradient through them is cheap on
a CPU, and like the classifiers they normalise after every convolution, which folds away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures import ConvNorm


class Removed(NamedTuple):
    """What a network finds: all (N, channels, rows, columns), values 0..1.

    image (3): without the mark. mask (1): where the mark was, as a probability. coarse, refined
    (3): the estimate of the picture before and after refinement, of any use inside the mask
    alone (``image`` is ``refined`` there and the input elsewhere). mark (3): the mark's colours.
    alpha (1): its opacity, nothing for a network that does not estimate it.
    """

    image: Tensor
    mask: Tensor
    coarse: Tensor
    refined: Tensor
    mark: Tensor
    alpha: Tensor | None


class Double(nn.Sequential):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(ConvNorm(inputs, outputs, 3), ConvNorm(outputs, outputs, 3))


class Residual(nn.Module):
    """One 3x3 convolution into the width, then a residual pair."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.into = ConvNorm(inputs, outputs, 3)
        self.first = ConvNorm(outputs, outputs, 3)
        self.second = ConvNorm(outputs, outputs, 3, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h, w)."""
        entered = self.into(x)
        return F.relu(entered + self.second(self.first(entered)))


class Encoder(nn.Module):
    """Stages joined by max-pooling; gives the maps of every stage, finest first."""

    def __init__(
        self, inputs: int, widths: Sequence[int], block: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            block(before, width) for before, width in zip((inputs, *widths), widths, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, inputs, h, w) to one (N, width, h / 2**i, w / 2**i) per stage."""
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(F.max_pool2d(maps[-1], 2) if maps else x))
        return maps


class Up(nn.Module):
    """Double the size, join the encoder's maps of that size, convolve."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        # Narrowing before doubling costs a quarter and reaches as far.
        self.narrow = ConvNorm(inputs, outputs)
        self.block = Double(outputs + skipped, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (N, inputs, h, w) and (N, skipped, 2h, 2w) to (N, outputs, 2h, 2w)."""
        doubled = F.interpolate(
            self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        joined: Tensor = self.block(torch.cat([doubled, skip], dim=1))
        return joined


class Decoder(nn.Module):
    """A chain of ``Up`` from some stage of an encoder to its finest."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        """widths: of the encoder's stages that are joined, finest first."""
        super().__init__()
        coming = (inputs, *widths[::-1])
        self.ups = nn.ModuleList(
            Up(before, width, width) for before, width in zip(coming, widths[::-1], strict=False)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map (N, inputs, h, w) and the stages' maps, finest first, to the finest size."""
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return x


def head(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution without normalisation."""
    return nn.Conv2d(inputs, outputs, 1)


class Decomposing(nn.Module):
    """After WDNet (Liu, Zhu, Bai 2021): estimate the mark and undo the blend, then refine.

    A U-Net with a dilated bottleneck gives the mark, its opacity, its mask and features. The
    blend x = alpha * mark + (1 - alpha) * picture is solved for the picture; a small residual
    network corrects the solution inside the mask; outside it the input stays.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96, 160), features: int = 16) -> None:
        super().__init__()
        self.encoder = Encoder(3, widths, Double)
        deepest = widths[-1]
        self.dilated = nn.Sequential(
            *(
                ConvNorm(deepest, deepest, 3, dilation=dilation, activation="leaky")
                for dilation in (2, 4, 6)
            )
        )
        self.decoder = Decoder(deepest, widths[:-1])
        self.mark = head(widths[0], 3)
        self.alpha = head(widths[0], 1)
        self.mask = head(widths[0], 1)
        self.features = ConvNorm(widths[0], features)
        self.refine = nn.Sequential(
            Residual(features + 6, features), Residual(features, features), head(features, 3)
        )

    def forward(self, marked: Tensor) -> Removed:
        """Find the mark in (N, 3, rows, columns) and take it off."""
        maps = self.encoder(marked)
        decoded = self.decoder(self.dilated(maps[-1]), maps[:-1])
        mask = torch.sigmoid(self.mask(decoded))
        mark = torch.sigmoid(self.mark(decoded))
        alpha = mask * torch.sigmoid(self.alpha(decoded))
        # Where alpha comes near 1 nothing of the picture is left to solve for.
        solved = (marked - alpha * mark) / (1.0 - alpha).clamp_min(0.05)
        coarse = solved.clamp(0.0, 1.0)
        seen = torch.cat([self.features(decoded), coarse, marked], dim=1)
        refined = (coarse + torch.tanh(self.refine(seen))).clamp(0.0, 1.0)
        image = mask * refined + (1.0 - mask) * marked
        return Removed(image, mask, coarse, refined, mark, alpha)


class Squeeze(nn.Module):
    """Weigh channels by what the whole map says (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, max(4, channels // 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(4, channels // 4), channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to the same shape."""
        weights: Tensor = torch.sigmoid(self.layers(x.mean(dim=(2, 3), keepdim=True)))
        return x * weights


class SeparateAttention(nn.Module):
    """Treat what lies inside and outside the mask apart, each with its own channel weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(Squeeze(channels), ConvNorm(channels, channels, 3))
        self.outside = Squeeze(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, channels, h, w), with a mask (N, 1, h, w) in 0..1, to the same shape."""
        inside: Tensor = self.inside(x * mask)
        outside: Tensor = self.outside(x * (1.0 - mask))
        return mask * inside + (1.0 - mask) * outside


class Branch(nn.Module):
    """One branch of the split: its own view of the shared stage, and its own decoder."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.squeeze = Squeeze(widths[-2])
        self.decoder = Decoder(widths[-2], widths[:-2])
        self.head = head(widths[0], outputs)

    def forward(self, shared: Up, maps: Sequence[Tensor]) -> Tensor:
        """Map the encoder's maps to (N, outputs, rows, columns), through the shared stage."""
        entered = self.squeeze(shared(maps[-1], maps[-2]))
        answer: Tensor = self.head(self.decoder(entered, maps[:-2]))
        return answer


class SplitRefine(nn.Module):
    """After "Split then Refine" (Cun, Pun 2021): three branches, then an attentive refiner.

    One residual encoder and one decoder stage serve three branches: the picture (a correction
    of the input), the mask, the mark. A second U-Net refines the joined picture, its decoder
    treating the inside and the outside of the mask apart.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 16, 32, 64, 128),
        refining: Sequence[int] = (16, 16, 32, 64),
    ) -> None:
        super().__init__()
        self.encoder = Encoder(3, widths, Residual)
        self.shared = Up(widths[-1], widths[-2], widths[-2])
        self.picture = Branch(widths, 3)
        self.mask = Branch(widths, 1)
        self.mark = Branch(widths, 3)
        self.refiner = Encoder(4, refining, Double)
        coming = refining[::-1]
        self.ups = nn.ModuleList(Up(before, width, width) for before, width in pairwise(coming))
        self.attention = nn.ModuleList(SeparateAttention(width) for width in coming[1:])
        self.correct = head(refining[0], 3)

    def forward(self, marked: Tensor) -> Removed:
        """Find the mark in (N, 3, rows, columns) and take it off."""
        maps = self.encoder(marked)
        picture = marked + 2.0 * torch.tanh(self.picture(self.shared, maps))
        mask = torch.sigmoid(self.mask(self.shared, maps))
        mark = torch.sigmoid(self.mark(self.shared, maps))
        coarse = (mask * picture + (1.0 - mask) * marked).clamp(0.0, 1.0)
        # Refined is what the picture's branch says, not the joined picture: inside the mask they
        # are the same, and it teaches that branch where the mask is still missed.
        refined = (picture + torch.tanh(self._refine(coarse, mask))).clamp(0.0, 1.0)
        image = mask * refined + (1.0 - mask) * marked
        return Removed(image, mask, picture, refined, mark, None)

    def _refine(self, coarse: Tensor, mask: Tensor) -> Tensor:
        maps = self.refiner(torch.cat([coarse, mask], dim=1))
        x = maps[-1]
        for i, (up, attend) in enumerate(zip(self.ups, self.attention, strict=True)):
            finer = len(self.ups) - 1 - i
            x = up(x, maps[finer])
            x = x + attend(x, F.avg_pool2d(mask, 2**finer) if finer else mask)
        corrected: Tensor = self.correct(x)
        return corrected


CORRECTIONS = frozenset({"refine.2", "correct", "picture.head"})
MASKS = frozenset({"mask", "mask.head"})
REMOVERS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"wdnet": Decomposing, "split-refine": SplitRefine}
)


def initialise_remover(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights, in place: He et al. 2015, but corrections begin as hardly any."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if name in CORRECTIONS:
            nn.init.normal_(module.weight, std=0.01, generator=generator)
        else:
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if module.bias is not None:
            # Most of a picture is not marked.
            nn.init.constant_(module.bias, -2.0 if name in MASKS else 0.0)
