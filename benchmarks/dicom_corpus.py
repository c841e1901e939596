"""Every DICOM file there is, each through `protect`, `verify` and `unlock` by itself.

Prints a table per transfer syntax and photometric interpretation: protected and restored
identical (SHA-256), passed over because it holds no picture, refused with the reason. Every
output is judged by other people's tools: dciodvfy must find no error that the input did not
have, and DCMTK must show the pixels that were written.

Files are worked on in a process of its own, which is started again when a decoder takes it down
or does not come back. Ends with 1 if anything crashed, hung, was left unmentioned or did not come
back identical, or where another tool complains.

    python -m benchmarks.dicom_corpus [FOLDER...] [--json] [--jobs N]

Without folders: the files that pydicom brings along, and MIAD_DATA/dicom where that is set.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

IDENTICAL, DIFFERENT = "identical", "not identical"
PASSED_OVER, LEFT_OUT, REFUSED = "passed over", "left out", "refused"
CRASHED, HUNG, UNMENTIONED = "crashed", "hung", "unmentioned"
STATES = (IDENTICAL, PASSED_OVER, LEFT_OUT, REFUSED, DIFFERENT, CRASHED, HUNG, UNMENTIONED)
BAD = (DIFFERENT, CRASHED, HUNG, UNMENTIONED)

_WARM_UP_SECONDS = 300


@dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
        reason: why it was not protected, in the program's words.
        decoded: the shape of what pydicom makes of it; empty where pydicom does not decode it.
        written_as: the transfer syntax of the output.
        complaints: errors that dciodvfy finds in the output and not in the input; None where it
            could not judge.
        shown: what DCMTK made of the output: `same`, `not supported`, or what went wrong.
    """

    name: str
    syntax: str
    photometric: str
    state: str
    reason: str = ""
    decoded: str = ""
    written_as: str = ""
    payload: str = ""
    complaints: list[str] | None = None
    shown: str = ""
    seconds: float = 0.0

    @property
    def is_bad(self) -> bool:
        shown_well = self.shown in ("", "same") or self.shown.startswith("not ")
        return self.state in BAD or bool(self.complaints) or not shown_well


def main() -> None:
    options = _options()
    files = list(_files(options.folders or _default_folders()))
    if not files:
        raise SystemExit("no file in the folders")
    with tempfile.TemporaryDirectory() as place:
        results = _all(files, Path(place), options)
    if options.json:
        print(json.dumps(_facts(results), indent=2, ensure_ascii=False))
    else:
        _print(results)
    raise SystemExit(1 if any(one.is_bad for one in results) else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=float, default=60, help="seconds a file may take")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    parser.add_argument("--model", default="resnet", help="the model the search asks")
    return parser.parse_args()


def _default_folders() -> list[Path]:
    from pydicom.data.data_manager import DATA_ROOT

    given = Path(os.environ.get("MIAD_DATA", "")) / "dicom"
    more = [given] if os.environ.get("MIAD_DATA") and given.is_dir() else []
    return [Path(DATA_ROOT) / "test_files", *more]


def _files(folders: list[Path]) -> Iterator[tuple[str, Path]]:
    """Every file below the folders, and its name beside that of its folder."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield f"{folder.name}/{path.relative_to(folder).as_posix()}", path


def _all(files: list[tuple[str, Path]], place: Path, options: argparse.Namespace) -> list[Result]:
    wanted = [(name, path) for name, path in files if options.only in name]
    workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for number in range(options.jobs):
        workers.put(_Worker(place / str(number), options.model))

    def one(numbered: tuple[int, tuple[str, Path]]) -> Result:
        number, (name, path) = numbered
        worker = workers.get()
        try:
            return _judge(worker, name, path, place / f"file{number}", options.limit)
        finally:
            workers.put(worker)
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{len(wanted)}", end="", file=sys.stderr)

    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            return list(pool.map(one, enumerate(wanted)))
    finally:
        for _ in range(options.jobs):
            workers.get().stop()


# --- The process that does the work ---------------------------------------------------------


class _Worker:
    """A process that is there to be lost: it is started again after a crash or a hang."""

    def __init__(self, home: Path, model: str) -> None:
        self._home, self._model = home, model
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, str(self._home), self._model), daemon=True
        )
        self._process.start()
        theirs.close()
        if self.call(_WARM_UP_SECONDS, "warm up") != "ready":
            raise SystemExit("the process that does the work does not start")

    def call(self, seconds: float, task: str, *paths: Path) -> Any:
        """What the task gives; `CRASHED` or `HUNG` where it gave nothing."""
        try:
            self._ours.send((task, paths))
            if self._ours.poll(seconds):
                return self._ours.recv()
            lost = HUNG
        except (EOFError, OSError):
            lost = CRASHED
        self.stop()
        if task != "warm up":
            self._start()
        return lost

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(connection: Any, home: str, model: str) -> None:
    """Do one task after the other; whatever goes wrong in one takes this process down."""
    os.environ["MIAD_HOME"] = home
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    Path(home).mkdir(parents=True, exist_ok=True)
    tasks: dict[str, Callable[..., Any]] = {
        "warm up": lambda: _warm_up(home),
        "decode": _decoded,
        "round": lambda path, folder: _round(path, folder, home, model),
        "show": _shown,
    }
    while True:
        try:
            task, paths = connection.recv()
        except EOFError:
            return
        connection.send(tasks[task](*paths))


def _warm_up(home: str) -> str:
    import onnx2fx  # noqa: F401
    import pydicom.pixels  # noqa: F401
    import torch  # noqa: F401

    import miad_cli.protect  # noqa: F401
    from miad_cli.demo import draw_logo

    draw_logo(Path(home) / "logo.png")
    return "ready"


def _decoded(path: Path) -> dict[str, str]:
    """The file as pydicom reads it: syntax, photometric interpretation, shape of its pixels."""
    from pydicom import dcmread
    from pydicom.uid import UID

    facts = {"syntax": "no DICOM header", "photometric": "", "decoded": ""}
    try:
        dataset = dcmread(path)
        facts["syntax"] = UID(dataset.file_meta.get("TransferSyntaxUID") or "none named").name
        facts["photometric"] = str(dataset.get("PhotometricInterpretation") or "no pixels")
        facts["decoded"] = " x ".join(str(n) for n in dataset.pixel_array.shape)
    except Exception:  # whatever: then pydicom does not decode it
        return facts
    return facts


def _round(path: Path, folder: Path, home: str, model: str) -> dict[str, Any]:
    """`protect`, `verify`, `unlock` of one file, by the commands themselves."""
    key, output, back = folder / "key.txt", folder / "out", folder / "back"
    protected = _miad(
        "protect", path, "--logo", Path(home) / "logo.png", "-o", output, "--search", "random",
        "--models", model, "--key-out", key, "--no-input", "--json",
    )  # fmt: skip
    said: dict[str, Any] = {"protect": protected}
    if any(one["state"] == "protected" for one in protected["json"].get("files", [])):
        said["verify"] = _miad("verify", output, "--key", key, "--json")
        said["unlock"] = _miad("unlock", output, "--key", key, "-o", back, "--json")
    return said


def _miad(*arguments: object) -> dict[str, Any]:
    from miad_cli.app import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(one) for one in arguments])
    try:
        facts = json.loads(out.getvalue())
    except ValueError:
        facts = {}
    return {"code": code, "json": facts, "err": err.getvalue()[-2000:]}


# --- Judgement ------------------------------------------------------------------------------


def _judge(worker: _Worker, name: str, path: Path, folder: Path, limit: float) -> Result:
    folder.mkdir(parents=True)
    started = time.perf_counter()
    try:
        facts = worker.call(limit, "decode", path)
        lost = facts if isinstance(facts, str) else ""
        kind: dict[str, Any] = (
            {"syntax": f"pydicom {lost}", "photometric": "", "decoded": ""} if lost else facts
        )
        said = worker.call(limit, "round", path, folder)
        if isinstance(said, str):
            return Result(name, state=said, seconds=time.perf_counter() - started, **kind)
        result = _result(name, path, folder, said, kind)
        if result.state == IDENTICAL:
            output = next(one for one in (folder / "out").iterdir() if one.suffix != ".miad")
            result = replace(
                result,
                complaints=_added_errors(path, output),
                shown=worker.call(limit, "show", output, path, folder),
            )
        return replace(result, seconds=round(time.perf_counter() - started, 2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _result(
    name: str, path: Path, folder: Path, said: dict[str, Any], kind: dict[str, Any]
) -> Result:
    protect = said["protect"]
    entry = next((one for one in protect["json"].get("files", [])), None)
    if entry is None:
        mentioned = protect["code"] in (3, 4) and protect["err"].strip()
        state = REFUSED if mentioned else UNMENTIONED
        return Result(name, state=state, reason=protect["err"].strip(), **kind)
    reason = str(entry.get("reason", ""))
    if entry["state"] != "protected":
        state = {"passed over": PASSED_OVER, "left out": LEFT_OUT}.get(entry["state"], REFUSED)
        if "internal error" in reason:
            state = CRASHED
        return Result(name, state=state, reason=reason, **kind)
    back = folder / "back" / path.name
    same = back.is_file() and _digest(back) == _digest(path)
    verdict = said["verify"]["code"], said["unlock"]["code"]
    failed = [
        f"{command}: {one.get('reason', '')}"
        for command in ("verify", "unlock")
        for one in said[command]["json"].get("files", [])
        if said[command]["code"]
    ]
    return Result(
        name,
        state=IDENTICAL if same and verdict == (0, 0) else DIFFERENT,
        reason="; ".join(failed),
        written_as=str(entry.get("syntax", "")),
        payload=str(entry.get("payload", "")),
        **kind,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _added_errors(before: Path, after: Path) -> list[str] | None:
    """What dciodvfy calls an error in `after` and not, or less often, in `before`.

    None where it is not installed or gives up reading the input; what it says of such a file
    depends on arbitrary bytes.
    """
    old, new = _errors(before), _errors(after)
    if old is None:
        return None
    return ["it cannot be read"] if new is None else sorted((new - old).elements())


def _errors(path: Path) -> Counter[str] | None:
    if shutil.which("dciodvfy") is None:
        return None
    done = subprocess.run(
        ["dciodvfy", "-new", path],
        capture_output=True, text=True, errors="replace", check=False, timeout=60,
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    if any("Dicom dataset read failed" in line for line in lines):
        return None
    # Our UIDs are new, so those that it quotes are no difference.
    said = (re.sub(r"= <[0-9.]+>", "= <UID>", line.strip()) for line in lines)
    return Counter(line for line in said if line.startswith("Error"))


_DCMTK = {
    "1.2.840.10008.1.2.4.50": "dcmj2pnm",
    "1.2.840.10008.1.2.4.51": "dcmj2pnm",
    "1.2.840.10008.1.2.4.57": "dcmj2pnm",
    "1.2.840.10008.1.2.4.70": "dcmj2pnm",
    "1.2.840.10008.1.2.4.80": "dcml2pnm",
    "1.2.840.10008.1.2.4.81": "dcml2pnm",
}
"""The program of DCMTK that renders a syntax; dcm2pnm what is not here and not JPEG 2000."""


def _shown(output: Path, original: Path, folder: Path) -> str:
    """Whether DCMTK shows in the first frame what we wrote there.

    Where it does not, and does not for the original either, nothing is said against the output.
    """
    said = _rendering(output, folder / "shown.pnm")
    if said == "same" or said.startswith("not "):
        return said
    if _rendering(original, folder / "before.pnm") == "same":
        return said
    return "not judged, since DCMTK does not show the original as pydicom does"


def _rendering(path: Path, rendered: Path) -> str:
    """`same` where DCMTK shows what we read; `not …` where it cannot be asked; else the trouble."""
    import numpy as np
    from PIL import Image

    from miad_cli.imaging.dicom import DicomPicture, read_dicom

    picture = read_dicom(path.read_bytes())
    if not isinstance(picture, DicomPicture):
        return "it is no picture to us"
    syntax = str(picture.dataset.file_meta.TransferSyntaxUID)
    if syntax.startswith(("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")):
        return "not supported by DCMTK (JPEG 2000)"
    program = _DCMTK.get(syntax, "dcm2pnm")
    if shutil.which(program) is None:
        return f"not tried: {program} is not installed"
    stored = picture.image.stored[0].astype(float)
    low, high = stored.min(), stored.max()
    grey = stored.shape[-1] == 1
    # Least to black, most to white (PS3.3 C.11.2.1.2), without rescaling and overlays.
    window = ["+Ww", str((low + high + 1) / 2), str(max(high - low + 1, 2))]
    done = subprocess.run(
        [program, "+F", "1", "+op", *([*window, "-M", "-O"] if grey else []), path, rendered],
        capture_output=True, text=True, errors="replace", check=False, timeout=60,
    )  # fmt: skip
    if done.returncode or not rendered.is_file():
        complaints = [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]
        return f"{program}: {(complaints or ['failed'])[0]}"
    with Image.open(rendered) as opened:
        shown = np.asarray(opened).astype(float)
    if shown.size != stored.size:
        return f"{program}: {shown.shape} for {stored.shape}"
    if not grey:
        low, high = 0, 2.0**picture.layout.bits_stored - 1
    wanted = (stored - low) / max(high - low, 1) * 255
    if picture.dataset.PhotometricInterpretation == "MONOCHROME1":
        wanted = 255 - wanted
    away = np.abs(shown.reshape(wanted.shape) - wanted).max()
    return "same" if away <= 1 else f"{program}: other pixels, by up to {away:.0f} of 255"


# --- Printing -------------------------------------------------------------------------------


def _facts(results: list[Result]) -> dict[str, Any]:
    return {
        "files": [asdict(one) for one in results],
        "counts": dict(Counter(one.state for one in results)),
        "decoded_but_refused": [one.name for one in _decoded_but_refused(results)],
        "bad": [one.name for one in results if one.is_bad],
    }


def _decoded_but_refused(results: list[Result]) -> list[Result]:
    return [one for one in results if one.decoded and one.state not in (IDENTICAL, PASSED_OVER)]


def _print(results: list[Result]) -> None:
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in results:
        rows[one.syntax, one.photometric][one.state] += 1
    used = [state for state in STATES if any(counts[state] for counts in rows.values())]
    print("| transfer syntax | photometric | files | " + " | ".join(used) + " |")
    print("| --- | --- | " + " | ".join(["---:"] * (len(used) + 1)) + " |")
    for (syntax, photometric), counts in sorted(rows.items()):
        cells = [str(counts[state] or "") for state in used]
        print(f"| {syntax} | {photometric} | {counts.total()} | {' | '.join(cells)} |")
    total = Counter(one.state for one in results)
    cells = [str(total[state]) for state in used]
    print(f"| **all** | | {len(results)} | {' | '.join(cells)} |")
    for state in used:
        if state != IDENTICAL:
            _print_named(state, [one for one in results if one.state == state])
    refused = _decoded_but_refused(results)
    print(f"\npydicom decodes, we do not protect: {len(refused)}")
    for one in refused:
        print(f"  {one.name} ({one.decoded}): {one.state}, {one.reason}")
    protected = [one for one in results if one.state == IDENTICAL]
    judged = [one for one in protected if one.complaints is not None]
    new = sum(len(one.complaints or ()) for one in judged)
    print(f"\ndciodvfy: {len(judged)} of {len(protected)} outputs judged, {new} new errors")
    _print_grouped([(said, one.name) for one in judged for said in one.complaints or ()])
    print("DCMTK: " + ", ".join(f"{n} {said}" for said, n in _shown_counts(protected)))
    for one in protected:
        if one.shown != "same" and not one.shown.startswith("not "):
            print(f"  {one.name} ({one.written_as}): {one.shown}")
    slowest = max(results, key=lambda one: one.seconds)
    print(f"slowest: {slowest.name}, {slowest.seconds:.1f} s")


def _shown_counts(protected: list[Result]) -> list[tuple[str, int]]:
    known = Counter(
        one.shown if one.shown == "same" or one.shown.startswith("not ") else "otherwise"
        for one in protected
    )
    return known.most_common()


def _print_grouped(said: list[tuple[str, str]]) -> None:
    """Each sentence once, with every file that it was said of."""
    names = defaultdict(list)
    for sentence, name in said:
        names[sentence].append(name)
    for sentence, of in names.items():
        print(f"  {sentence}\n    {', '.join(of)}")


def _print_named(state: str, results: list[Result]) -> None:
    print(f"\n{state}: {len(results)}")
    _print_grouped([(one.reason, one.name) for one in results])


if __name__ == "__main__":
    main()
