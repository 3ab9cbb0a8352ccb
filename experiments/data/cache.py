"""Decoded data sets, kept as uncompressed .npz files in a cache folder."""

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_LOG = logging.getLogger(__name__)
_LAYOUT = "lathe-1"  # part of every fingerprint: a new layout makes new files


def cache_dir() -> Path:
    """Returns the cache folder, read from the environment at every call.

    `LATHE_CACHE`, else `$XDG_CACHE_HOME/lathe`, else `~/.cache/lathe`. It need not
    exist, and it may be deleted at any time.
    """
    if own := os.environ.get("LATHE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lathe"


def fingerprint(files: Iterable[Path]) -> str:
    """Returns 16 hex digits that change with a file's name, size or time of change."""
    digest = hashlib.sha256(_LAYOUT.encode())
    for path in sorted(files):
        stat = path.stat()
        digest.update(f"\0{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def cache_path(name: str, version: str, key: str) -> Path:
    """Returns where the arrays of data set `name` with fingerprint `key` are kept."""
    return cache_dir() / "data" / f"{name}-{version}-{key}.npz"


def read(path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """Returns the arrays called `names`, or None if the file cannot give them all.

    A file that is there but unreadable (cut short, overwritten, of another layout)
    is reported and counts as absent: the caller decodes again and writes it anew.
    """
    try:
        # numpy leaves a file of its own open when the zip inside is broken
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        return None
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,  # an .npy file: one array, no archive
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        _LOG.warning("cannot use the cached %s (%s): decoding again", path, error)
        return None


def write(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Writes the arrays as `path`, whole or not at all.

    Returns:
      Whether it was written. A folder that cannot be written is reported, not
      raised: the data set is in memory all the same.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        _LOG.warning("cannot write the cache %s (%s)", path, error)
        return False
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return True
