"""Export every architecture untrained, and check it: ``python -m training.selfcheck``.

Shows in minutes, before anything is trained, that each file will say what its network says, and
that it can be differentiated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from training.architectures import FAMILIES, Network, initialise
from training.data import SOURCES
from training.export import check_parity, to_onnx
from training.removers import REMOVERS, initialise_remover
from training.runs import finished, restore
from training.segmenters import SEGMENTERS, initialise_segmenter


def untrained(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights, its norms given some statistics, as ``best.pt`` has it."""
    generator = torch.Generator().manual_seed(seed)

    def empty() -> nn.Module:
        if name in REMOVERS:
            return REMOVERS[name]()
        if name in SEGMENTERS:
            return SEGMENTERS[name]()
        labels = {task: [n for s in sources for n in s.labels] for task, sources in SOURCES.items()}
        return Network(FAMILIES[name], labels)

    drawn = empty()
    if name in REMOVERS:
        initialise_remover(drawn, generator)
    elif name in SEGMENTERS:
        initialise_segmenter(drawn, generator)
    else:
        initialise(drawn, generator)
    with torch.no_grad():
        for _ in range(3):
            drawn.train()(torch.rand(2, 3, 64, 64, generator=generator))
    network = empty()
    restore(network, finished(drawn))
    return network


def main(argv: Sequence[str] | None = None) -> None:
    """Export and check; ends with the exception of the first that fails."""
    names = [*FAMILIES, *REMOVERS, *SEGMENTERS]
    parser = argparse.ArgumentParser(prog="python -m training.selfcheck", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(names)}; default: all")
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args(argv)
    for name in given.names or names:
        started = time.monotonic()
        network = untrained(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(to_onnx(network, given.side).SerializeToString())
            worst = max(check_parity(network, path, given.side).values())
            size = path.stat().st_size / 1e6
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        print(
            f"{name:14} {parameters:5.2f} M parameters  {size:5.2f} MB  "
            f"largest difference {worst:.1e}  {time.monotonic() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
