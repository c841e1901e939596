"""Networks that say which pixels of a picture are lesion.

Normalised pictures go in as (N, 3, rows, columns) float32, rows and columns multiples of 16. Slim
like the removers, because a box around the lesion is all that is asked of them: whatever they
find stands between the picture and the search for a place, on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures import ConvNorm
from training.removers import Decoder, Double, Encoder, head

LABELS = ("background", "lesion")
COMMON_SHARE = 0.2
"""Of a picture that lesions take, about: what an untrained network says of every pixel."""


class UNet(nn.Module):
    """After U-Net (Ronneberger et al. 2015), at half the picture's size.

    A strided convolution in front and bilinear doubling at the end cost a third of a full-size
    U-Net; boxes need no finer edge. Dilated convolutions at 1/16 let every answer see the whole
    picture.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64, 64), dilations: Sequence[int] = (2, 4)
    ) -> None:
        super().__init__()
        deepest = widths[-1]
        self.stem = ConvNorm(3, widths[0], 3, 2)
        self.encoder = Encoder(widths[0], widths, Double)
        self.dilated = nn.Sequential(
            *(ConvNorm(deepest, deepest, 3, dilation=dilation) for dilation in dilations)
        )
        self.decoder = Decoder(deepest, widths[:-1])
        self.mask = head(widths[0], 1)

    def forward(self, model_input: Tensor) -> Tensor:
        """Logits (N, 1, rows, columns) of being lesion."""
        maps = self.encoder(self.stem(model_input))
        decoded = self.decoder(self.dilated(maps[-1]), maps[:-1])
        return F.interpolate(
            self.mask(decoded), scale_factor=2.0, mode="bilinear", align_corners=False
        )


SEGMENTERS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType({"unet": UNet})


def initialise_segmenter(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights after He et al. 2015, in place; at first every pixel is as likely lesion."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        nn.init.kaiming_normal_(module.weight, generator=generator)
        if module.bias is not None:
            odds = math.log(COMMON_SHARE / (1 - COMMON_SHARE)) if name == "mask" else 0.0
            nn.init.constant_(module.bias, odds)
