"""What every test shares: the keys of whoever runs the tests are never touched."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_data_directory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAD_HOME", str(tmp_path_factory.mktemp("home")))
