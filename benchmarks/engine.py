"""The protection engine against the paper-faithful method, as ratios from one run.

paper: δ_D first (MIAD-MARK Eq. 1 and 3: 50 steps of 2/255 within 8/255, plain and everywhere, on
the picture at 224 pixels under logos at random places, against the first removal network that is
installed), then HE-SIT (Alg. 3) on the picture with δ, one candidate at a time, on all classifiers
of the task. Where no removal network is installed there are no steps, and the table says so.
fast, standard, max: what `miad protect` does to a picture at that effort.

Both see the same pictures, models, logo and label, and ask the models through the same code with
one thread each. Only test pictures that every model classifies right take part. Measured is what
leads from a picture in memory to the marked one: neither reading nor sealing, and models are
loaded and warm. Every method has a process of its own for its peak of memory, and they take turns
picture by picture, so that what else the machine does meets all of them.

Figures of single pictures are appended to the journal as they are made, and the same command goes
on where it was stopped. They are known by models, profile, logo and seed, not by the code: begin
another journal where that changed.

    python -m benchmarks.engine --data DATA --tasks brain_mri,fundus --n 6 --effort fast,standard
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.engine_tables import COUNTED, PAPER, Result, tables
from benchmarks.journal import record, recorded
from benchmarks.meter import watching
from benchmarks.paper_method import PGD, disrupting, paper_bank, paper_faithful
from miad_cli.decisions import settings_of
from miad_cli.demo import draw_logo
from miad_cli.errors import InvisibleLogo, NoRoomForLogo, PictureFailed
from miad_cli.evaluation import metrics
from miad_cli.evaluation.datasets import Case
from miad_cli.evaluation.inputs import read_dataset
from miad_cli.evaluation.sampling import drawn_in_turn
from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device
from miad_cli.profiles import Profile, shipped_profiles, with_overrides
from miad_cli.watermark.effort import EffortName
from miad_cli.watermark.ensemble import Ensemble
from miad_cli.watermark.logo import Bytes, load_logo
from miad_cli.watermark.marking import Marking, Perturbing, Settings, mark_picture

EFFORTS: tuple[str, ...] = get_args(EffortName)


@dataclass(frozen=True)
class Request:
    """What a run is about; the same in every process."""

    data: Path
    logo: Path | None
    seed: int


def main() -> None:
    options = _options()
    request = Request(options.data, options.logo, options.seed)
    done = recorded(options.journal)
    measured: list[Result] = []
    for task in options.tasks:
        measured += _of_task(request, task, (PAPER, *options.effort), options, done)
    print(tables(measured))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/manifest.csv")
    parser.add_argument("--tasks", type=_names, default=["brain_mri"], help="joined by commas")
    parser.add_argument("--n", type=int, default=6, help="pictures of each task")
    parser.add_argument("--effort", type=_efforts, default=["standard"], help="joined by commas")
    parser.add_argument("--logo", type=Path, help="default: the demonstration's")
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--journal", type=Path, default=Path("engine.jsonl"))
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))


def _efforts(text: str) -> list[str]:
    unknown = [one for one in _names(text) if one not in EFFORTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: there are {', '.join(EFFORTS)}")
    return _names(text)


def _of_task(
    request: Request,
    task: str,
    methods: Sequence[str],
    options: argparse.Namespace,
    done: dict[str, Result],
) -> list[Result]:
    """The figures of every method on the first `n` pictures that count, known ones first."""
    with ExitStack() as stack:
        workers = {one: stack.enter_context(_worker(request, task, one)) for one in methods}

        def known(method: str, case: Case, work: Callable[..., Result], name: str) -> Result:
            key = f"{task} {_digest(request, task)} {name} {case.digest()[:16]}"
            if key not in done:
                done[key] = workers[method].submit(work, case.reference).result()
                record(options.journal, key, done[key])
            return done[key]

        results: list[Result] = []
        taken = 0
        for case in _order(request, task):
            if taken == options.n:
                break
            if not known(PAPER, case, _classified_right, "right")["right"]:
                continue
            taken += 1
            for method in methods:
                figures = known(method, case, _measured, method)
                facts = {"task": task, "method": method, "picture": f"{task} {case.reference}"}
                results.append({**facts, "group": f"{task} {case.group}", **figures})
            print(f"{task}: {taken} of {options.n}", file=sys.stderr, flush=True)
    return results


def _worker(request: Request, task: str, method: str) -> ProcessPoolExecutor:
    """A process for one method; it begins with what it is first asked."""
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (request, task, method))


# --- What is worked on ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _profile(task: str) -> Profile:
    profiles = {one.models.task: one for one in shipped_profiles().values() if one.models.task}
    if task not in profiles:
        raise SystemExit(f"no profile is for the task {task}; there are: {', '.join(profiles)}")
    return profiles[task]


@lru_cache(maxsize=1)
def _bank(task: str) -> Bank:
    profile = _profile(task)
    wanted, segmentation = profile.models, profile.lesions.network
    bank = load_bank(wanted.task, wanted.names, wanted.attention, Device(), segmentation)
    if bank.task is None:
        raise SystemExit(f"no installed model answers the task {task}")
    return bank


@lru_cache(maxsize=1)
def _order(request: Request, task: str) -> tuple[Case, ...]:
    """The test pictures: classes take turns, and so do patients."""
    output = _bank(task).surrogates[0].manifest.output_for(task)
    assert output is not None
    dataset = read_dataset(request.data / task, split="test").for_task(output.labels)
    return tuple(drawn_in_turn(dataset.cases, request.seed, Counter(), None))


@lru_cache(maxsize=1)
def _digest(request: Request, task: str) -> str:
    """What figures depend on but for the code: models, profile, logo and seed."""
    facts = [_bank(task).digest, _profile(task).digest, str(request.seed)]
    facts.append(hashlib.sha256(_logo(request.logo).tobytes()).hexdigest())
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:12]


def _logo(path: Path | None) -> Bytes:
    """The logo given, or the demonstration's."""
    if path is not None:
        return load_logo(path)
    with tempfile.TemporaryDirectory() as folder:
        draw_logo(Path(folder) / "logo.png")
        return load_logo(Path(folder) / "logo.png")


# --- In a worker ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a worker needs, loaded once."""

    request: Request
    method: str
    bank: Bank
    settings: Settings
    logo: Bytes
    cases: Mapping[int, Case]


_benches: list[_Bench] = []
"""The worker's one; empty in any other process."""


def _begin(request: Request, task: str, method: str) -> None:
    """Load everything that the method asks, and do a little of everything."""
    ours = method != PAPER
    effort = {"search": {"effort": method}} if ours else {}
    settings = settings_of(with_overrides(_profile(task), effort))
    bank = _bank(task) if ours else paper_bank(_bank(task))
    for one in (bank.attention, *bank.removers, *(bank.surrogates if ours else ())):
        _ = one.gradients
    cases = {case.reference: case for case in _order(request, task)}
    _benches.append(_Bench(request, method, bank, settings, _logo(request.logo), cases))
    with suppress(NoRoomForLogo, InvisibleLogo):
        _warm_up(_benches[0], next(iter(cases.values())).load())


def _warm_up(bench: _Bench, image: MedicalImage) -> None:
    generator, perturbing = np.random.default_rng(0), bench.settings.perturbing
    if bench.method == PAPER:
        perturbing = None
        for network in bench.bank.removers:
            disrupting(image, network, bench.logo, generator, replace(PGD, steps=1))
    elif perturbing:
        perturbing = Perturbing(perturbing.attack, 0, 1)
    brief = replace(bench.settings, method="random", perturbing=perturbing)
    mark_picture(image, bench.bank, bench.logo, brief, generator)


def _classified_right(reference: int) -> Result:
    """Whether every model gives the label of a picture."""
    bench = _benches[0]
    case = bench.cases[reference]
    try:
        clean = Ensemble(bench.bank, case.load()).clean
    except PictureFailed:
        return {"right": False}
    return {"right": all(int(one.argmax()) == case.label for one in clean.probabilities)}


def _measured(reference: int) -> Result:
    """The figures of one picture; `refused` where no logo fits or shows."""
    bench = _benches[0]
    case = bench.cases[reference]
    image, label = case.load(), case.label
    assert label is not None
    generator = np.random.default_rng([bench.request.seed, int(case.digest()[:16], 16)])
    protect = paper_faithful if bench.method == PAPER else mark_picture
    with watching(bench.bank) as meter:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            made = protect(image, bench.bank, bench.logo, bench.settings, generator, label)
        except (NoRoomForLogo, InvisibleLogo) as error:
            return {"refused": error.message}
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "wall": wall,
        "cpu": cpu,
        "models_wall": meter.wall,
        "models_cpu": meter.cpu,
        **{name: meter.passes[kind] for name, kind in COUNTED.items()},
        "removers": len(bench.bank.removers),
        "accuracy": 1 - made.models_fooled / len(bench.bank.surrogates),
        "ssim": _likeness(image, made),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def _likeness(image: MedicalImage, made: Marking) -> float:
    """SSIM of the key frame, logo included, as it is displayed."""
    shown = [
        image.windowed(stored[image.key_frame])[..., : stored.shape[3]]
        for stored in (image.stored, made.stored)
    ]
    return metrics.ssim(*shown, data_range=1.0)


if __name__ == "__main__":
    main()
