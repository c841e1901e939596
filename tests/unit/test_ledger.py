"""The ledger: what was added is there, after a kill as well; nothing else counts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miad_cli.errors import OutputExists, UsageError
from miad_cli.evaluation.ledger import (
    FILE,
    Key,
    Ledger,
    Notes,
    Progress,
    digest_of,
    work_folder,
)

ONE = Key("unseen", "resnet/he-sit", 17)
WHOLE = Key("removal", "splitnet")
FIGURES = {"fooled": True, "queries": 34, "ssim": 0.1 + 0.2}


def lines_of(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def test_what_was_added_is_known_to_the_next_run(tmp_path: Path) -> None:
    with Ledger(tmp_path / "deep" / "work", "d1") as ledger:
        assert ledger.known(ONE) is None
        ledger.add(ONE, FIGURES)
        ledger.add(WHOLE, {"auc": math.nan, "psnr": math.inf})
        assert ledger.known(ONE) == FIGURES
    with Ledger(tmp_path / "deep" / "work", "d1") as ledger:
        assert ledger.known(ONE) == FIGURES
        again = ledger.known(WHOLE)
        assert again is not None and math.isnan(again["auc"]) and again["psnr"] == math.inf
        assert ledger.known(Key("unseen", "resnet/he-sit", 18)) is None
        assert ledger.known(Key("unseen", "resnet/he-sit", "17")) is None
        assert len(ledger) == 2


def test_a_unit_is_on_the_disk_before_the_next_begins(tmp_path: Path) -> None:
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, FIGURES)
        (line,) = lines_of(tmp_path)
    assert line.endswith(b"\n")
    assert json.loads(line) == {"digest": "d1", "key": list(ONE), "figures": FIGURES}


def test_a_line_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, FIGURES)
        assert len(synced) == 1


def test_figures_of_numpy_are_kept_exactly(tmp_path: Path) -> None:
    scores = np.array([[1 / 3, np.float32(0.1)]], np.float64)
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, {"scores": scores, "label": np.int64(3), "p": np.float32(0.1)})
        before = ledger.known(ONE)
    with Ledger(tmp_path, "d1") as ledger:
        found = ledger.known(ONE)
    assert found == before  # a run that goes on calculates with the same numbers
    assert found == {"scores": scores.tolist(), "label": 3, "p": float(np.float32(0.1))}


def test_what_cannot_be_kept_is_no_record(tmp_path: Path) -> None:
    with Ledger(tmp_path, "d1") as ledger, pytest.raises(TypeError, match="Path is nothing"):
        ledger.add(ONE, {"path": tmp_path})
    assert lines_of(tmp_path) == []


def test_records_of_other_settings_do_not_count_and_stay(tmp_path: Path) -> None:
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, {"n": 1})
    with Ledger(tmp_path, "d2") as ledger:
        assert ledger.known(ONE) is None
        ledger.add(ONE, {"n": 2})
    with Ledger(tmp_path, "d1") as ledger:
        assert ledger.known(ONE) == {"n": 1}


def test_the_last_record_of_a_key_counts(tmp_path: Path) -> None:
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, {"n": 1})
        ledger.add(ONE, {"n": 2})
    with Ledger(tmp_path, "d1") as ledger:
        assert ledger.known(ONE) == {"n": 2}


def test_wherever_a_run_is_killed_the_rest_is_kept(tmp_path: Path) -> None:
    """The file cut anywhere: what was whole is known, and what comes next is too."""
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, {"n": 1})
        ledger.add(WHOLE, {"n": 2})
    content = (tmp_path / FILE).read_bytes()
    first = content.index(b"\n")
    new = Key("seen", "random", 1)
    ends = {first, first + 1, first + 2, len(content) - 1, len(content)}
    for length in sorted(ends | set(range(0, len(content), 11))):
        (tmp_path / FILE).write_bytes(content[:length])
        with Ledger(tmp_path, "d1") as ledger:
            assert (ledger.known(ONE) is not None) is (length >= first)
            assert (ledger.known(WHOLE) is not None) is (length >= len(content) - 1)
            ledger.add(new, {"n": 3})
        with Ledger(tmp_path, "d1") as ledger:
            assert ledger.known(new) == {"n": 3}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe", b"[]", b"7", b"null", b'{"digest": "d1"}', b"[" * 100_000,
        b'{"digest": "d1", "key": ["a", "b", 1], "figures": 3}',
        b'{"digest": "d1", "key": ["a", "b"], "figures": {}}',
        b'{"digest": "d1", "key": ["a", "b", []], "figures": {}}',
        b'{"digest": "d1", "key": 5, "figures": {}}',
    ],
)  # fmt: skip
def test_lines_that_are_no_records_do_not_count(tmp_path: Path, line: bytes) -> None:
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, {"n": 1})
    with (tmp_path / FILE).open("ab") as stream:
        stream.write(line + b"\n")
    with Ledger(tmp_path, "d1") as ledger:
        assert len(ledger) == 1


def test_progress_counts_what_was_planned(tmp_path: Path) -> None:
    planned = [Key("seen", "he", case) for case in range(5)]
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(planned[1], {})
        ledger.add(WHOLE, {})
        assert ledger.progress([*planned, planned[1]]) == Progress(1, 5)


def test_two_runs_do_not_write_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path, "d1"), pytest.raises(OutputExists, match="another run"):
        Ledger(tmp_path, "d2").__enter__()
    with Ledger(tmp_path, "d2") as ledger:
        ledger.add(ONE, {})


_KILLED = """
import os, sys
from pathlib import Path
from miad_cli.evaluation.ledger import Key, Ledger
ledger = Ledger(Path(sys.argv[1]), "d1").__enter__()
ledger.add(Key("seen", "he", 1), {"n": 1})
try:
    Ledger(Path(sys.argv[1]), "d1").__enter__()
except Exception as error:
    print(type(error).__name__, flush=True)
os._exit(9)
"""


def test_a_killed_run_holds_nothing_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 9 and run.stdout == "OutputExists\n"
    with Ledger(tmp_path, "d1") as ledger:
        assert ledger.known(Key("seen", "he", 1)) == {"n": 1}


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be kept"):
        Ledger(tmp_path / "file", "d1").__enter__()


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    with Ledger(tmp_path, "d1") as ledger:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UsageError, match="No space left"):
            ledger.add(ONE, {})
        assert ledger.known(ONE) is None


def test_a_digest_follows_every_fact_and_not_their_order() -> None:
    facts = {"seed": 2023, "settings": {"sl": [2, 3], "t": 190.0}, "models": ["a", "b"]}
    digest = digest_of(facts)
    assert digest == digest_of(dict(reversed(facts.items())))
    for name, other in (("seed", 2024), ("settings", {"sl": [3, 2], "t": 190.0}), ("models", [])):
        assert digest_of({**facts, name: other}) != digest
    with pytest.raises(TypeError):
        digest_of({"folder": Path("a")})


def test_a_ledger_lies_beside_its_report() -> None:
    assert work_folder(Path("out/brain.html")) == Path("out/brain-work")


def test_notes_begin_with_the_ledger_and_hand_over_what_is_new(tmp_path: Path) -> None:
    """While another process holds the ledger, and without touching its file."""
    with Ledger(tmp_path, "d1") as ledger:
        ledger.add(ONE, FIGURES)
        before = (tmp_path / FILE).read_bytes()
        notes = Notes(tmp_path, "d1")
        assert notes.known(ONE) == FIGURES
        assert Notes(tmp_path, "d2").known(ONE) is None
        notes.add(WHOLE, {"ssim": np.float64(0.5), "grid": np.arange(2)})
        assert notes.handed_over() == [(WHOLE, {"ssim": 0.5, "grid": [0, 1]})]
        assert notes.handed_over() == []
        assert notes.known(WHOLE) == {"ssim": 0.5, "grid": [0, 1]}
        assert (tmp_path / FILE).read_bytes() == before


def test_notes_without_a_ledger_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Notes(tmp_path / "nowhere", "d1")
