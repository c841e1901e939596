"""The optimiser of the trainings."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("onnxscript")

import torch
from torch import nn

from training.muon import MATCH_ADAMW, make_optimiser, orthogonal


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 96, 24), (1, 32, 32)])
def test_all_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    turned = orthogonal(torch.randn(shape) * 5.0)
    values = torch.linalg.svdvals(turned)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.4
    assert float(values.mean()) == pytest.approx(1.0, abs=0.2)


def test_the_directions_of_a_matrix_are_kept() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1, 24, 60)
    u, _, vh = torch.linalg.svd(matrix[0], full_matrices=False)
    aligned = torch.diagonal(u.T @ orthogonal(matrix)[0] @ vh.T)
    assert float(aligned.min()) > 0.3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 24, 1),
        nn.Flatten(),
        nn.Linear(24 * 16, 2),
    )


def test_matrices_take_steps_as_large_as_adamw_gives_and_all_others_adamws() -> None:
    ours, theirs = network(), network()
    optimiser = make_optimiser(ours, 0.0)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)
    before = [p.detach().clone() for p in ours.parameters()]
    pictures = torch.randn(4, 3, 8, 8)
    for own, chosen in ((ours, optimiser), (theirs, reference)):
        for group in chosen.param_groups:
            group["lr"] = 0.01
        own(pictures).square().mean().backward()
        chosen.step()
    matrices = {"0.weight", "2.weight"}
    pairs = zip(ours.named_parameters(), theirs.parameters(), before, strict=True)
    for (name, mine), other, start in pairs:
        moved = float((mine.detach() - start).square().mean().sqrt())
        if name in matrices:
            assert moved == pytest.approx(0.01 * MATCH_ADAMW, rel=0.35)
        else:
            assert torch.equal(mine, other)


def test_its_momentum_travels_in_a_checkpoint() -> None:
    first, second = network(), network()
    one = make_optimiser(first, 0.1)
    two = make_optimiser(second, 0.1)
    pictures = torch.randn(4, 3, 8, 8)

    def step(own: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        own(pictures).square().mean().backward()
        optimiser.step()

    step(first, one)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # it would share the tensors
    step(first, one)
    step(second, two)
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
