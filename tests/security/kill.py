"""SIGKILL at random moments of protect, unlock and rekey: what is left must be whole or absent.

`python -m tests.security.kill --n 200` prints how many runs were killed in each command, and fails
when a killed run left a file that is not what its name says, or when running again did not finish
the job. Needs POSIX (fork).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from helpers import build_dicom, build_png, ramp
from PIL import Image

from miad_cli.app import run
from miad_cli.files import PART_PREFIX
from miad_cli.seal.identities import load_identities, new_identity
from miad_cli.seal.owner import OwnerKey
from miad_cli.verify import Verdict, verify_file

PICTURES = 5


@dataclass(frozen=True)
class Place:
    """The folders and keys of the trials."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study"

    @property
    def protected(self) -> Path:
        return self.root / "protected"

    @property
    def back(self) -> Path:
        return self.root / "back"

    def key(self, name: str) -> Path:
        return self.root / f"{name}.txt"

    @property
    def owner(self) -> Path:
        return self.root / "owner.pem"

    def recipient(self, name: str) -> str:
        return str(load_identities(self.key(name))[0].to_public())


def prepare(root: Path) -> Place:
    """A small study of DICOM and PNG, a logo, an owner's key and two recipients."""
    place = Place(root)
    place.study.mkdir(parents=True)
    for number in range(PICTURES - 1):
        words = ramp(40, 48).astype("u2") + np.uint16(number)
        (place.study / f"slice-{number}.dcm").write_bytes(build_dicom(words))
    colours = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    (place.study / "photo.png").write_bytes(build_png(colours))
    Image.new("RGBA", (20, 10), (255, 255, 255, 255)).save(root / "logo.png")
    OwnerKey.generate().save(place.owner)
    for name in ("old", "new"):
        new_identity(place.key(name))
    return place


def protect_line(place: Place) -> list[str]:
    line = ["protect", str(place.study), "--logo", str(place.root / "logo.png")]
    line += ["-o", str(place.protected), "--sign-with", str(place.owner)]
    return [
        *line,
        "--to",
        place.recipient("old"),
        "--search",
        "random",
        "--models",
        "resnet",
        "--effort",
        "fast",
        "-q",
    ]


def unlock_line(place: Place) -> list[str]:
    key = str(place.key("old"))
    return ["unlock", str(place.protected), "--key", key, "-o", str(place.back), "-q"]


def rekey_line(place: Place) -> list[str]:
    line = ["keys", "rekey", str(place.protected), "--sign-with", str(place.owner), "-q"]
    line += ["--key", str(place.key("old")), "--key", str(place.key("new"))]
    return [*line, "--to", place.recipient("new")]


def parts_below(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PART_PREFIX}*")) if folder.exists() else []


def final_files(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return [one for one in folder.rglob("*") if one.is_file() and PART_PREFIX not in one.name]


def check_protected(place: Place, keys: tuple[str, ...], whole: bool) -> None:
    """Every picture that has its name is authentic, and one of `keys` restores it."""
    identities = [one for key in keys for one in load_identities(place.key(key))]
    owner = OwnerKey.load(place.owner).public
    pictures = [one for one in final_files(place.protected) if one.suffix != ".miad"]
    for path in pictures:
        seen = verify_file(path, [owner], identities)
        expect(seen.verdict is Verdict.AUTHENTIC, f"{path.name}: {seen.verdict.value}")
        expect(seen.restorable is True, f"{path.name} cannot be restored")
    if whole:
        expect(len(pictures) == PICTURES, "pictures are missing after the second run")
        expect(not parts_below(place.protected), "unfinished files were left behind")


def check_unlocked(place: Place, whole: bool) -> None:
    """Every file that has its name is the original, byte for byte."""
    for path in final_files(place.back):
        original = (place.study / path.name).read_bytes()
        expect(path.read_bytes() == original, f"{path.name} is not the original")
    if whole:
        expect(len(final_files(place.back)) == PICTURES, "files are missing after the second run")
        expect(not parts_below(place.back), "unfinished files were left behind")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"broken: {otherwise}")


def run_in_child(line: list[str], seconds: float | None) -> bool:
    """Run `miad` in a forked process; kill it after `seconds`. True where the kill came first."""
    child = os.fork()
    if child == 0:
        os._exit(run(line))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    code = os.waitstatus_to_exitcode(status)
    expect(code == 0, f"{line[0]} ended with {code}")
    return False


def duration(line: list[str]) -> float:
    started = time.perf_counter()
    run_in_child(line, None)
    return time.perf_counter() - started


def trials(
    count: int,
    generator: random.Random,
    line: list[str],
    again: list[str],
    reset: Callable[[], None],
    check: Callable[[bool], None],
) -> Counter[str]:
    """Kill `line` at `count` random moments; look at what is left; run `again`; look once more."""
    reset()
    longest = duration(line)
    seen: Counter[str] = Counter()
    for _ in range(count):
        reset()
        killed = run_in_child(line, generator.uniform(0, longest))
        seen["killed" if killed else "finished first"] += 1
        check(False)
        run_in_child(again, None)
        check(True)
    return seen


def main(arguments: list[str] | None = None) -> dict[str, Counter[str]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=2023)
    options = parser.parse_args(arguments)
    generator = random.Random(options.seed)
    each = -(-options.n // 3)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIAD_HOME"] = str(Path(folder) / "home")
        place = prepare(Path(folder))
        kept = place.root / "kept"

        def empty(path: Path) -> None:
            shutil.rmtree(path, ignore_errors=True)

        def restore() -> None:
            empty(place.protected)
            shutil.copytree(kept, place.protected)

        results = {
            "protect": trials(
                each,
                generator,
                protect_line(place),
                [*protect_line(place), "--resume"],
                lambda: empty(place.protected),
                lambda whole: check_protected(place, ("old",), whole),
            )
        }
        shutil.copytree(place.protected, kept)
        results["unlock"] = trials(
            each,
            generator,
            unlock_line(place),
            [*unlock_line(place), "--on-exists", "skip"],
            lambda: empty(place.back),
            lambda whole: check_unlocked(place, whole),
        )
        results["rekey"] = trials(
            each,
            generator,
            rekey_line(place),
            rekey_line(place),
            restore,
            lambda whole: check_protected(place, ("new",) if whole else ("old", "new"), whole),
        )
    for command, seen in results.items():
        print(f"{command}: {dict(seen)}")
    return results


if __name__ == "__main__":
    main()
