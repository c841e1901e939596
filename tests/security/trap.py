"""One file that was made to hurt, taken through what `protect` does to it, in a process of its own.

`python tests/security/trap.py FILE FOLDER` reads the picture, marks it without asking any model,
writes it into FOLDER with its seal, and restores it; prints one JSON object with the outcome.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import marking_of, noisy_logo, sealing_for
from pyrage import x25519

from miad_cli.errors import MiadError
from miad_cli.imaging.dicom import NoPicture
from miad_cli.imaging.picture import read_picture
from miad_cli.instance import write_instance
from miad_cli.unlock import unlock
from miad_cli.watermark.blend import Mark

ADDRESS_SPACE = 8 << 30
"""Bytes of address space; who asks for more is refused by the operating system, and that shows."""


def main(path: Path, folder: Path) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    try:
        return _taken_through(path, folder)
    except MiadError as error:
        return {"outcome": "refused", "said": error.message}


def _taken_through(path: Path, folder: Path) -> dict[str, object]:
    picture = read_picture(path.read_bytes(), path)
    if picture is None or isinstance(picture, NoPicture):
        return {"outcome": "no picture"}
    identity = x25519.Identity.generate()
    marking = marking_of(picture.image, Mark(1, 1, 200, noisy_logo(4, 6)))
    write_instance(
        folder / "out" / path.name, path.name, picture, marking, sealing_for(identity.to_public())
    )
    report = unlock([folder / "out"], folder / "back", [identity])
    same = (folder / "back" / path.name).read_bytes() == path.read_bytes()
    return {"outcome": "restored" if report.exit_code == 0 and same else "not restored"}


def peak_mebibytes() -> float:
    """The most memory that this process had since it was started.

    `ru_maxrss` would count what the process that started it had, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    said = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(said | {"mebibytes": peak_mebibytes()}))
