"""Where data that do not ship with Lathe lie."""

import os
from pathlib import Path


def data_root() -> Path:
    """Returns the folder of shared data: LATHE_DATA, or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("LATHE_DATA") or beside).expanduser()
