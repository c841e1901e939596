"""Random damage, in a number that a test run can afford; `mutate.py` does more by command."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutate import run


@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_found_and_restores_nothing_else(tmp_path: Path) -> None:
    tally = run(600, 1, tmp_path)
    print("\n".join(tally.lines()))
    assert not tally.broken
    assert sum(tally.verdicts.values()) == 600
    found = {verdict for _, verdict in tally.verdicts}
    assert {"pixels changed", "signature invalid", "container missing or damaged"} <= found
