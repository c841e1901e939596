"""The optimiser: Muon for the weights of convolutions and layers, AdamW for all others.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale that lets
it share AdamW's learning rate and decay is that of Liu et al. 2025 (arXiv 2502.16982, Eq. 4).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# The quintic iteration's coefficients: singular values end between 0.7 and 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCH_ADAMW = 0.2
# A depthwise kernel is no matrix to speak of, a head of few classes neither.
SMALLEST_SIDE = 8


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but groups with ``muon`` set step along their momentum, orthogonalised."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Advance every parameter that has a gradient."""
        own = [group for group in self.param_groups if group.get("muon")]
        for group in own:
            self._step_along(group)
        held = self.param_groups
        self.param_groups = [group for group in held if not group.get("muon")]
        try:
            super().step(closure)
        finally:
            self.param_groups = held

    def _step_along(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weights in group["params"]:
            if weights.grad is None:
                continue
            state = self.state[weights]
            if not state:
                # AdamW asks for the count when it is restored, whoever uses it.
                state["step"] = torch.zeros(())
                state["momentum"] = torch.zeros_like(weights)
            state["step"] += 1
            momentum = state["momentum"]
            momentum.lerp_(weights.grad, 1.0 - MOMENTUM)
            ahead = weights.grad.lerp(momentum, MOMENTUM)
            rows = weights.shape[0]
            alike[rows, weights.numel() // rows].append((weights, ahead.reshape(rows, -1)))
        for (rows, columns), pairs in alike.items():
            turned = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            scale = MATCH_ADAMW * math.sqrt(max(rows, columns))
            for (weights, _), direction in zip(pairs, turned, strict=True):
                weights.mul_(1.0 - group["lr"] * group["weight_decay"])
                weights.add_(direction.reshape(weights.shape), alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) matrices with all singular values brought near 1, as float32.

    Newton and Schulz's iteration in bfloat16: close is enough.
    """
    x = matrices.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.mT).float()


def make_optimiser(network: nn.Module, weight_decay: float) -> MuonAdamW:
    """Muon for matrices, AdamW for depthwise kernels, heads, norms and biases."""
    matrices, others, plain = [], [], []
    for weights in network.parameters():
        if weights.ndim <= 1:
            plain.append(weights)
        elif min(weights.shape[0], weights[0].numel()) >= SMALLEST_SIDE and weights.shape[1] > 1:
            matrices.append(weights)
        else:
            others.append(weights)
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "muon": True},
        {"params": others, "weight_decay": weight_decay, "muon": False},
        {"params": plain, "weight_decay": 0.0, "muon": False},
    ]
    return MuonAdamW([group for group in groups if group["params"]])
