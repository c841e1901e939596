"""What the models of a bank do while something else runs: how often each kind, and how long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from miad_cli.models.bank import Bank, Surrogate


@dataclass
class Meter:
    """What models did: pictures passed, by the kind of pass, and the seconds it took.

    `cpu` is the processor time of all threads.
    """

    passes: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0
    cpu: float = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time added up."""

        def measured(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*given, **named)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return measured

    def asked(self, session: Any, role: str) -> Any:
        """An ONNX Runtime session whose runs are timed and counted."""
        run = self.timed(session.run)

        def counted(wanted: list[str], fed: Mapping[str, Any]) -> Any:
            (pictures,) = fed.values()
            self.passes[role] += len(pictures)
            return run(wanted, fed)

        return SimpleNamespace(run=counted)

    def followed(self, module: Any, role: str) -> Any:
        """A torch module whose calls are timed and counted: as gradients where they will be
        differentiated."""
        run = self.timed(module)

        def counted(fed: Any) -> Any:
            self.passes[f"{role} gradient" if fed.requires_grad else role] += len(fed)
            return run(fed)

        return counted


@contextmanager
def watching(bank: Bank) -> Iterator[Meter]:
    """Times and counts what the models of a bank do that are loaded, gradients included.

    That is the run of an ONNX Runtime session, the call of a torch module, and torch's way back
    from it, of which the transforms that δ is seen through are part.
    """
    import torch

    meter = Meter()
    with ExitStack() as stack:
        for one in _models_of(bank):
            role, engine = one.manifest.role, one.session._engine
            stack.enter_context(
                patch.object(engine, "_session", meter.asked(engine._session, role))
            )
            if "differentiable" in vars(one):
                module = one.differentiable._module
                stack.enter_context(
                    patch.object(one.differentiable, "_module", meter.followed(module, role))
                )
        back = meter.timed(torch.autograd.grad)
        stack.enter_context(patch.object(torch.autograd, "grad", back))
        yield meter


def _models_of(bank: Bank) -> list[Surrogate]:
    """Each model once."""
    found = (bank.segmentation,) if bank.segmentation else ()
    return list(dict.fromkeys((*bank.surrogates, bank.attention, *found, *bank.removers)))
