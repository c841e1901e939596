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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import numpy as np

from benchmarks.journal import record, recorded
from miad_cli.decisions import settings_of
from miad_cli.demo import draw_logo
from miad_cli.errors import InvisibleLogo, NoRoomForLogo, PictureFailed
from miad_cli.evaluation import intervals, metrics
from miad_cli.evaluation.datasets import Case
from miad_cli.evaluation.inputs import read_dataset
from miad_cli.evaluation.sampling import drawn_in_turn
from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Bank, Surrogate, load_bank
from miad_cli.models.session import Device
from miad_cli.profiles import Profile, shipped_profiles, with_overrides
from miad_cli.watermark.blend import OPAQUE, Mark, Tone, ink, tone_for
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.effort import EffortName
from miad_cli.watermark.ensemble import Ensemble
from miad_cli.watermark.logo import Bytes, load_logo
from miad_cli.watermark.marking import Marking, Perturbing, Settings, mark_picture
from miad_cli.watermark.perturbation import Attack, Weights, perturb
from miad_cli.watermark.placement import Candidate, Placement
from miad_cli.watermark.scenes import Scene, scene_of

PAPER = "paper"
EFFORTS: tuple[str, ...] = get_args(EffortName)

PGD = Attack(
    epsilon=8,
    shaped=False,
    step_size=2,
    steps=50,
    momentum=0,
    remover_every=1,
    transforms=False,
    weights=Weights(classifiers=0, features=0, disrupt=1, inerase=0),
)
"""The paper's δ_D: Eq. 1 on Eq. 3 alone."""

SCALE = 2
"""The paper's logo scale divisor sl."""

COUNTED = {
    "queries": "classifier",
    "gradients": "classifier gradient",
    "removals": "removal gradient",
    "segmentations": "segmentation",
}
"""Figures of a picture, and the passes that they count: how many pictures models of this role were
asked about, or were differentiated at."""

Result = dict[str, Any]


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
    bank = _bank(task) if ours else _paper_bank(_bank(task))
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


# --- The paper's way --------------------------------------------------------------------------


def paper_faithful(
    image: MedicalImage,
    bank: Bank,
    logo: Bytes,
    settings: Settings,
    generator: np.random.Generator,
    label: int,
) -> Marking:
    """δ_D, where there is a removal network, and then boxes by Grad-CAM and HE-SIT over it."""
    if bank.removers:
        delta = disrupting(image, bank.removers[0], logo, generator)
        image = replace(image, stored=add(image.stored, delta, _tone(image)))
    plain = replace(settings, method="he-sit", perturbing=None)
    return mark_picture(image, bank, logo, plain, generator, label)


def _paper_bank(bank: Bank) -> Bank:
    """What of a bank the paper's method asks: no segmentation, one removal network."""
    return replace(bank, segmentation=None, removers=bank.removers[:1])


def disrupting(
    image: MedicalImage,
    network: Surrogate,
    logo: Bytes,
    generator: np.random.Generator,
    attack: Attack = PGD,
) -> Delta:
    """δ_D against one removal network, each step under another logo at a random place."""
    clear = scene_of(image, image.key_frame, None, (), _tone(image))
    rows, columns = clear.canvas.shape[:2]
    placement = Placement(logo, rows, columns, SCALE, ())
    corners = placement.feasible_corners()
    scenes = []
    for _ in range(attack.steps):
        x, y = corners[generator.integers(len(corners))]
        candidate = Candidate(int(x), int(y), int(generator.integers(1, 256)))
        scenes.append(_under(clear, placement.mark(candidate)))
    # A task keeps δ from beginning with noise; no classifier is asked about it.
    return perturb(scenes, (), (network,), "none", 0, attack, generator).delta


def _under(clear: Scene, mark: Mark) -> Scene:
    """A scene with a logo that was rendered at its size."""
    colours, opacity = np.zeros_like(clear.canvas), np.zeros_like(clear.opacity)
    opacity[mark.region] = mark.opacity[..., 0] / OPAQUE
    colours[mark.region] = ink(mark.logo, Tone(0, 255), clear.canvas.shape[2]) / 255
    return replace(clear, ink=colours, opacity=opacity)


def _tone(image: MedicalImage) -> Tone:
    return tone_for(
        (image.window.low, image.window.high), image.bounds, image.inverted, image.padding
    )


# --- Watching the models ----------------------------------------------------------------------


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


# --- Tables -----------------------------------------------------------------------------------

HEAD = (
    "| task | method | pictures | wall s | CPU s | inferences | gradients | on removal networks "
    "| right after | SSIM | beside the models, wall (CPU) | peak MiB |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)
RATIOS = (
    "| task | method | CPU time | wall time | inferences | all passes "
    "| right after, difference | SSIM, difference |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def tables(results: Sequence[Result]) -> str:
    """Means with 95 % intervals by task and method, and ratios to the paper-faithful method over
    the same pictures; what one method refused counts for none."""
    refused = {one["picture"] for one in results if "refused" in one}
    kept = [one for one in results if one["picture"] not in refused]
    tasks = list(dict.fromkeys(one["task"] for one in kept))
    methods = list(dict.fromkeys(one["method"] for one in kept))
    groups = [(task, [one for one in kept if one["task"] == task]) for task in tasks]
    if len(tasks) > 1:
        groups.append(("all", kept))
    rows, ratios = [], []
    for name, chosen in groups:
        by_method = {one: _Figures([r for r in chosen if r["method"] == one]) for one in methods}
        rows += [_row(name, method, figures) for method, figures in by_method.items()]
        ratios += [
            _ratios(name, method, figures, by_method[PAPER])
            for method, figures in by_method.items()
            if method != PAPER
        ]
    parts = [
        f"{HEAD}\n" + "\n".join(rows),
        f"Ratios to {PAPER}; below 1 is less work. Differences below 0: less accuracy left, less "
        f"alike.\n\n{RATIOS}\n" + "\n".join(ratios),
        *_notes(kept, refused),
    ]
    return "\n\n".join(parts)


def _notes(kept: Sequence[Result], refused: set[str]) -> Iterator[str]:
    if any(one["method"] == PAPER and not one["removers"] for one in kept):
        yield (
            f"No removal network is installed: {PAPER} is HE-SIT alone, without its 50 steps of "
            "δ_D, which makes it cheaper than the paper's method; δ of the others is made against "
            "classifiers alone."
        )
    if refused:
        yield f"Left out, because no logo fits or shows in one of the methods: {len(refused)}."


class _Figures:
    """One method's figures, a picture each, in the order of the pictures."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = sorted(results, key=lambda one: str(one["picture"]))
        self.groups = [one["group"] for one in self._results]

    def __len__(self) -> int:
        return len(self._results)

    def of(self, *names: str) -> np.ndarray:
        """(n,): the sum of these figures."""
        return np.array([sum(one[name] for name in names) for one in self._results], float)

    def mean(self, *names: str, places: int = 2) -> str:
        found = intervals.mean_estimate(self.of(*names), np.random.default_rng(0), self.groups)
        return _shown(found, places)


def _row(task: str, method: str, figures: _Figures) -> str:
    shares = [
        _of_sums(figures.of(kind) - figures.of(f"models_{kind}"), figures.of(kind), figures.groups)
        for kind in ("wall", "cpu")
    ]
    beside = " (".join(f"{100 * one.value:.0f} %" for one in shares) + ")"
    cells = [
        task, method, str(len(figures)), figures.mean("wall"), figures.mean("cpu"),
        figures.mean("queries", places=0), figures.mean("gradients", places=0),
        figures.mean("removals", places=0), figures.mean("accuracy"), figures.mean("ssim"),
        beside, f"{figures.of('peak').max():.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ratios(task: str, method: str, ours: _Figures, paper: _Figures) -> str:
    passes = tuple(COUNTED)
    shares = [
        _shown(_of_sums(ours.of(*names), paper.of(*names), ours.groups))
        for names in (("cpu",), ("wall",), ("queries",), passes)
    ]
    differences = [
        _shown(intervals.mean_estimate(
            ours.of(name) - paper.of(name), np.random.default_rng(0), ours.groups
        ))
        for name in ("accuracy", "ssim")
    ]  # fmt: skip
    return f"| {' | '.join([task, method, *shares, *differences])} |"


def _of_sums(part: np.ndarray, whole: np.ndarray, groups: Sequence[str]) -> intervals.Estimate:
    """Sum by sum over the same pictures."""
    return intervals.bootstrap(
        lambda chosen: float(part[chosen].sum() / whole[chosen].sum()),
        len(whole),
        np.random.default_rng(0),
        groups,
    )


def _shown(found: intervals.Estimate, places: int = 2) -> str:
    value = f"{found.value:.{places}f}"
    if found.method == "none":
        return value
    return f"{value} ({found.low:.{places}f} to {found.high:.{places}f})"


if __name__ == "__main__":
    main()
