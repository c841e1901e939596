"""SIGKILL at random moments of `miad send`, then `--resume`: nothing lost, nothing unprotected,
nothing twice.

`python -m tests.pacs.kill_sender --n 20` sends a study, with its originals beside it, to an
Orthanc of its own, kills the sender (every other time once it has begun to send), and looks at
what Orthanc holds; then it resumes, and looks again. Needs POSIX (fork), Orthanc and a C compiler.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from helpers import OWNER
from pictures import Study, make_study
from servers import Server, build_loopback, make_orthanc

from miad_cli.app import run
from miad_cli.verify import Verdict, verify_file

ORIGINALS_REFUSED = 6


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"broken: {otherwise}")


def start_sending(study: Study, server: Server, *more: str) -> int:
    """Send in a forked process; its id."""
    line = ["send", str(study.protected), str(study.originals), "--dest", server.dest]
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)  # it names the originals that it refuses
        os._exit(run([*line, "--yes-not-clinical", "-q", *more]))
    return child


def was_killed(child: int) -> bool:
    """Wait for the child: whether the kill came before its end."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    code = os.waitstatus_to_exitcode(status)
    expect(code == ORIGINALS_REFUSED, f"send ended with {code}")
    return False


def wait_for_journal(study: Study) -> None:
    """Until everything is judged and the sending begins."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not (study.home / "sent").exists():
        time.sleep(0.0005)


def durations(study: Study, server: Server) -> tuple[float, float]:
    """Seconds that a run takes, and of these the sending."""
    started = time.perf_counter()
    child = start_sending(study, server)
    wait_for_journal(study)
    sending = time.perf_counter()
    expect(not was_killed(child), "nobody should have killed it")
    ended = time.perf_counter()
    return ended - started, ended - sending


def check(study: Study, server: Server, folder: Path, *, whole: bool) -> int:
    """Everything that Orthanc holds is one of ours, and authentic; how many there are."""
    held = server.instances()
    expect(held.keys() <= set(study.uids), "something else was sent, or under another UID")
    for number, content in enumerate(held.values()):
        path = folder / f"held-{number}.dcm"
        path.write_bytes(content)
        verdict = verify_file(path, [OWNER.public]).verdict
        expect(verdict is Verdict.AUTHENTIC, f"something was sent that is {verdict.value}")
        path.unlink()
    if whole:
        expect(held.keys() == set(study.uids), "something was lost")
    return len(held)


def forget(study: Study, server: Server) -> None:
    server.clear()
    shutil.rmtree(study.home / "sent", ignore_errors=True)


def main(arguments: list[str] | None = None) -> Counter[str]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20, help="kills")
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--seed", type=int, default=2023)
    options = parser.parse_args(arguments)
    generator = random.Random(options.seed)
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["MIAD_HOME"] = str(folder / "home")
        study = make_study(folder, options.slices, side=256)
        server = make_orthanc(folder / "orthanc", build_loopback(folder)).start()
        try:
            durations(study, server)  # the first run also imports
            forget(study, server)
            whole, sending = durations(study, server)
            for number in range(10 * options.n):
                if seen["killed"] == options.n:
                    break
                forget(study, server)
                child = start_sending(study, server)
                if number % 2:
                    wait_for_journal(study)
                time.sleep(generator.uniform(0, sending if number % 2 else whole))
                os.kill(child, signal.SIGKILL)
                killed = was_killed(child)
                there = check(study, server, folder, whole=not killed)
                seen["killed" if killed else "finished first"] += 1
                seen["killed with some there"] += killed and 0 < there < options.slices
                was_killed(start_sending(study, server, "--resume"))
                check(study, server, folder, whole=True)
        finally:
            server.kill()
    print(dict(seen))
    return seen


if __name__ == "__main__":
    main()
