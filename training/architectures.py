"""Network families: one trunk each, one linear head per task.

Every convolution is followed by its own batch normalisation, so that all of them fold into
the convolutions before export. The last activation of every trunk lies at 1/16 of the input
(10x10 for 160x160): twice as fine as usual, because Grad-CAM is computed on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Outputs(NamedTuple):
    """What a network returns for a batch of N images.

    logits: per task (N, labels) float32. features: pooled (N, D). cam: last activation
    (N, D, rows, columns), of which ``features`` is the mean over rows and columns.
    """

    logits: dict[str, Tensor]
    features: Tensor
    cam: Tensor


class ConvNorm(nn.Module):
    """Convolution and batch normalisation, then ReLU, ReLU6 or nothing."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = {"relu": nn.ReLU, "relu6": nn.ReLU6, "none": nn.Identity}[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        activated: Tensor = self.act(self.norm(self.conv(x)))
        return activated

    def fold(self) -> None:
        """Move the batch normalisation (its running statistics) into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2016, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3, activation="none")
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, activation="none")
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project (Sandler et al. 2018, Fig. 3b)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNorm(inputs, hidden, activation="relu6"))
        layers.append(
            ConvNorm(
                hidden, hidden, 3, stride, groups=hidden, dilation=dilation, activation="relu6"
            )
        )
        layers.append(ConvNorm(hidden, outputs, activation="none"))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        projected: Tensor = self.layers(x)
        return x + projected if self.residual else projected


class DenseBlock(nn.Module):
    """Layers that each see all maps before them (Huang et al. 2017).

    Normalisation comes after the convolution, not before it, so that it folds away.
    """

    def __init__(self, inputs: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                ConvNorm(inputs + i * growth, 4 * growth), ConvNorm(4 * growth, growth, 3)
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, inputs + layers * growth, h, w)."""
        maps = x
        for layer in self.layers:
            maps = torch.cat([maps, layer(maps)], dim=1)
        return maps


def resnet_trunk(
    blocks: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = (32, 64, 128, 192)
) -> tuple[nn.Module, int]:
    """Compact ResNet-18 whose last stage keeps its resolution; the trunk and its channels."""
    layers: list[nn.Module] = [ConvNorm(3, widths[0], 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            stride = 2 if block == 0 and stage in (1, 2) else 1
            layers.append(BasicBlock(channels, width, stride))
            channels = width
    return nn.Sequential(*layers), channels


def densenet_trunk(
    blocks: Sequence[int] = (4, 8, 14), growth: int = 20, last: int = 256
) -> tuple[nn.Module, int]:
    """Compact DenseNet-BC of three blocks; the trunk and its channels."""
    channels = 2 * growth
    layers: list[nn.Module] = [ConvNorm(3, channels, 5, 2), nn.MaxPool2d(3, 2, 1)]
    for index, count in enumerate(blocks):
        layers.append(DenseBlock(channels, count, growth))
        channels += count * growth
        if index + 1 < len(blocks):
            layers += [ConvNorm(channels, channels // 2), nn.AvgPool2d(2)]
            channels //= 2
    layers.append(ConvNorm(channels, last))
    return nn.Sequential(*layers), last


def mobilenet_v2_trunk() -> tuple[nn.Module, int]:
    """MobileNet V2 at output stride 16; the trunk and its channels.

    The last stage is dilated instead of strided, which leaves ImageNet weights valid.
    """
    layers: list[nn.Module] = [ConvNorm(3, 32, 3, 2, activation="relu6")]
    channels = 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expansion, width, count, first_stride in plan:
        for block in range(count):
            stride = first_stride if block == 0 else 1
            layers.append(InvertedResidual(channels, width, stride, expansion, 1))
            channels = width
    for width, dilation in ((160, 1), (160, 2), (160, 2), (320, 2)):
        layers.append(InvertedResidual(channels, width, 1, 6, dilation))
        channels = width
    layers.append(ConvNorm(channels, 1280, activation="relu6"))
    return nn.Sequential(*layers), 1280


@dataclass(frozen=True)
class Family:
    """A family: how its trunk is built and what its input (0..1) is normalised with."""

    name: str
    build: Callable[[], tuple[nn.Module, int]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family("resnet", resnet_trunk, IMAGENET_MEAN, IMAGENET_STD),
            Family("densenet", densenet_trunk, IMAGENET_MEAN, IMAGENET_STD),
            # The ImageNet weights expect 2x - 1, which is mean = std = 0.5.
            Family("mobilenet-v2", mobilenet_v2_trunk, (0.5,) * 3, (0.5,) * 3),
        )
    }
)


class Network(nn.Module):
    """A trunk, average pooling, and one linear head per task."""

    def __init__(
        self, family: Family, labels: Mapping[str, Sequence[str]], dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.trunk, channels = family.build()
        self.heads = nn.ModuleDict(
            {task: nn.Linear(channels, len(names)) for task, names in labels.items()}
        )
        self.dropout = dropout

    def forward(self, model_input: Tensor) -> Outputs:
        """Classify normalised images (N, 3, rows, columns) float32 for every task."""
        cam: Tensor = self.trunk(model_input)
        features = cam.mean(dim=(2, 3))
        kept = F.dropout(features, self.dropout, self.training)
        return Outputs({task: head(kept) for task, head in self.heads.items()}, features, cam)


def fold_norms(network: nn.Module) -> None:
    """Fold every batch normalisation of an eval-mode network into its convolution, in place."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw convolution weights after He et al. 2015 (fan out), in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)


def load_folded(network: Network, state: Mapping[str, Tensor], probe: Tensor) -> None:
    """Start ``network`` from weights whose batch norms were folded, in place.

    state: a state dict in the order of the layers: a 4-D kernel, then its 1-D weight (1),
    bias, running mean (0) and variance (1). Folded norms cannot be trained on as they are:
    batch statistics would wipe out the scale that now sits in the kernels. So the statistics
    of each layer are measured on ``probe`` ((N, 3, rows, columns) float32, normalised) and
    the affine part is set to undo them: the function stays, and the norms work again.

    Raises:
        ValueError: the kernels do not match this family.
    """
    kernels = [key for key, value in state.items() if value.ndim == 4]
    layers = [module for module in network.modules() if isinstance(module, ConvNorm)]
    if [tuple(state[key].shape) for key in kernels] != [tuple(m.conv.weight.shape) for m in layers]:
        raise ValueError("initial weights do not match this family's convolutions")
    biases = [key for key in state if key.endswith(".bias") and not key.startswith("classifier")]
    with torch.no_grad():
        for module, kernel, bias in zip(layers, kernels, biases, strict=True):
            module.conv.weight.copy_(state[kernel].float())
            assert isinstance(module.norm, nn.BatchNorm2d)
            module.norm.bias.copy_(state[bias].float())
        _restore_norms(network, layers, probe)


def _restore_norms(network: Network, layers: Sequence[ConvNorm], probe: Tensor) -> None:
    def measure(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        variance, mean = torch.var_mean(args[0], dim=(0, 2, 3))
        norm.running_mean = mean
        norm.running_var = variance
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)

    handles = [layer.norm.register_forward_pre_hook(measure) for layer in layers]
    network.eval()(probe)
    for handle in handles:
        handle.remove()
