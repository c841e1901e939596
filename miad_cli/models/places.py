"""Where models lie: those that ship with miad, and those that this user added."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def user_models_directory() -> Path:
    """The folder of this user's own models, whether it is there or not: `models` in `MIAD_HOME`,
    or in the platform's place for user data."""
    home = os.environ.get("MIAD_HOME")
    return (Path(home) if home else platformdirs.user_data_path("miad")) / "models"
