"""How fast `miad send` is, beside DCMTK's storescu and dcmsend, to Orthanc and to storescp.

All send the same protected slices to the same servers on loopback, by turns, each server emptied
before each turn; the ratios of the best rounds are printed. `miad send` also verifies every file,
which the others do not; `transport` is what it does after that.

DCMTK, which both servers are made with, leaves Nagle's algorithm on unless `TCP_NODELAY=1` stands
in its environment. A sender that acknowledges late then waits 45 ms for each picture, whatever it
does itself. So everything is measured twice: as Debian starts these programs, and with that
variable set for the server and for DCMTK's tools.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "pacs"))

from pictures import Study, make_study
from pydicom import dcmread
from servers import Server, build_loopback, make_orthanc, make_storescp, need

from miad_cli.pacs.destinations import find_destination
from miad_cli.pacs.outcome import Instance
from miad_cli.pacs.store import DimseStore
from miad_cli.seal.owner import OwnerPublicKey
from miad_cli.send import Wishes, send_study

_BASELINES = ("storescu", "dcmsend")

Sender = Callable[[Server, Study], None]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.environ["MIAD_HOME"] = str(place / "home")
        study = make_study(place, options.files, options.side, carrier="embed")
        size = sum(path.stat().st_size for path in study.files)
        print(f"{len(study.files)} slices, {size / 1e6:.0f} MB, {options.rounds} rounds")
        preload = build_loopback(place)
        for no_delay in ("0", "1"):
            for make in (make_orthanc, make_storescp):
                server = make(place / f"{make.__name__}-{no_delay}", preload)
                server.environment = {"TCP_NODELAY": no_delay}
                server.start()
                try:
                    _report(server, _measure(server, study, options.rounds), options.files)
                finally:
                    server.kill()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _measure(server: Server, study: Study, rounds: int) -> dict[str, float]:
    senders: dict[str, Sender] = {
        "storescu": partial(_dcmtk, "storescu"),
        "dcmsend": partial(_dcmtk, "dcmsend"),
        "miad send, the program": _program,
        "miad send, in process": _in_process,
        "transport": _transport,
    }
    best = dict.fromkeys(senders, float("inf"))
    for _ in range(rounds):
        for name, sender in senders.items():
            _empty(server)
            started = time.perf_counter()
            sender(server, study)
            best[name] = min(best[name], time.perf_counter() - started)
            held = _held(server)
            if held != len(study.files):
                raise SystemExit(f"{name}: {held} of {len(study.files)} arrived")
    return best


def _report(server: Server, best: dict[str, float], files: int) -> None:
    print(f"to {server.aet}, TCP_NODELAY={server.environment['TCP_NODELAY']}")
    for name, seconds in best.items():
        against = [f"{best[other] / seconds:.2f} x {other}" for other in _BASELINES]
        print(f"  {name}: {seconds:.2f} s, {files / seconds:.0f}/s = {'; '.join(against)}")


def _dcmtk(tool: str, server: Server, study: Study) -> None:
    line = [need(tool), "+sd", "+r", "-aec", server.aet, server.host, str(server.port)]
    _run([*line, str(study.protected)], **server.environment)


def _program(server: Server, study: Study) -> None:
    line = [sys.executable, "-m", "miad_cli", "send", str(study.protected), "--quiet"]
    _run([*line, "--dest", server.dest, "--yes-not-clinical"])


def _in_process(server: Server, study: Study) -> None:
    owner = OwnerPublicKey.load(study.home / "owner.pub.pem")
    destination = find_destination(server.dest, {})
    report = send_study([study.protected], destination, [owner], Wishes(), not_clinical=True)
    if report.exit_code:
        raise SystemExit(f"send ended with {report.exit_code}")


def _transport(server: Server, study: Study) -> None:
    """What is left without verification."""
    store = DimseStore(find_destination(server.dest, {}))
    if not all(one.is_stored for one in store.send([_instance(path) for path in study.files])):
        raise SystemExit("not everything was stored")


def _instance(path: Path) -> Instance:
    facts = dcmread(path, stop_before_pixels=True)
    return Instance(
        path,
        PurePosixPath(path.name),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        facts.SOPClassUID,
        facts.SOPInstanceUID,
        facts.file_meta.TransferSyntaxUID,
        facts.StudyInstanceUID,
        facts.SeriesInstanceUID,
    )


def _run(line: list[str], **environment: str) -> None:
    settings = {**os.environ, **environment}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        raise SystemExit(f"{line[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _empty(server: Server) -> None:
    if server.http_port:
        server.clear()
        return
    shutil.rmtree(server.folder / "stored")
    (server.folder / "stored").mkdir()


def _held(server: Server) -> int:
    if server.http_port:
        return int(server.rest("GET", "/statistics")["CountInstances"])
    return len(list((server.folder / "stored").iterdir()))


if __name__ == "__main__":
    main()
