"""What a work folder belongs to: `config.json`, and whether a run may use it."""

import dataclasses
from pathlib import Path
from typing import Any

from core.errors import DataFormatError, WorkdirError
from experiments import files, options
from experiments.results import versions

FILE = "config.json"
_OWN = ("experiment", "mode", "seeds")


def describe_run(
    experiment: str, mode: str, seeds: tuple[int, ...], config: Any
) -> dict[str, Any]:
    """Returns what `config.json` holds.

    Args:
      experiment: its name.
      mode: its name.
      seeds: one repetition each.
      config: the experiment's config dataclass.
    """
    return {
        "experiment": experiment,
        "mode": mode,
        "seeds": list(seeds),
        "config": files.plain(dataclasses.asdict(config)),
        "versions": versions(),
    }


def read(folder: Path) -> dict[str, Any]:
    """Reads a work folder's `config.json`.

    Args:
      folder: the work folder.

    Raises:
      WorkdirError: there is none, or it cannot be what a run wrote.
    """
    path = folder / FILE
    if not path.is_file():
        raise WorkdirError(
            f"got {folder}, which holds no {FILE}; expected the work folder of a run "
            "that was started. Give the folder that its command named"
        )
    remedy = "Give another --workdir, or remove the folder"
    try:
        found = files.read_json(path)
    except DataFormatError as error:
        raise WorkdirError(f"{error}; expected a run's config. {remedy}") from error
    problem = _problem(found)
    if problem:
        raise WorkdirError(f"{path}: {problem}; expected a run's config. {remedy}")
    return found


def check_free(folder: Path) -> None:
    """Checks that a new run may use a folder.

    Args:
      folder: absent, empty, or with hidden files, logs and a run's own folders only.

    Raises:
      WorkdirError: it holds something else.
    """
    if not folder.is_dir():
        return
    own = {"stages", "checkpoints"}
    names = sorted(path.name for path in folder.iterdir())
    other = [n for n in names if n not in own and n[0] != "." and n[-4:] != ".log"]
    if other:
        raise WorkdirError(
            f"--workdir: got {folder}, which holds {other[0]!r} but no {FILE}; "
            "expected a new folder or one of an earlier run. Give another --workdir"
        )


def check_same(folder: Path, stored: dict[str, Any], mine: dict[str, Any]) -> None:
    """Checks that a work folder was made by the same command.

    Args:
      folder: the work folder, for the message.
      stored: its `config.json`.
      mine: the `describe_run` of this run.

    Raises:
      WorkdirError: what differs, key by key, and the flags that match.
    """
    old = {name: stored[name] for name in _OWN} | stored["config"]
    new = {name: mine[name] for name in _OWN} | mine["config"]
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not keys:
        return
    if "experiment" in keys:  # options of another experiment would tell nothing
        keys = ["experiment"]
    changes = ", ".join(
        f"{key} {_named(old.get(key))} there and {_named(new.get(key))} now"
        for key in keys
    )
    remedy = "Give another --workdir"
    if "experiment" not in keys and all(key in old and key in new for key in keys):
        flags = " ".join(f"--{key}={_show(old[key])}" for key in keys)
        remedy += f", or go on with {flags}"
    raise WorkdirError(
        f"work folder {folder} belongs to another config: {changes}. {remedy}"
    )


def drift(stored: dict[str, Any], mine: dict[str, Any]) -> str:
    """Returns how the versions of packages changed since the folder was made."""
    old, new = stored.get("versions", {}), mine["versions"]
    changed = [name for name in new if old.get(name, new[name]) != new[name]]
    if not changed:
        return ""
    text = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in changed)
    return f"packages changed since the run began ({text}); numbers may differ"


def config_of(stored: dict[str, Any], config_cls: type) -> Any:
    """Returns the config that a `config.json` holds.

    Args:
      stored: as `read` returns it.
      config_cls: the experiment's config class.

    Raises:
      InputError: a value is outside of today's ranges.
      UnknownNameError: an option that is no more.
    """
    return options.build(config_cls, given=stored["config"])


def _problem(found: Any) -> str:
    """Returns what in a `config.json` is not as `describe_run` makes it, or ''."""
    if not isinstance(found, dict):
        return f"got a {type(found).__name__}"
    kinds = {"experiment": str, "mode": str, "seeds": list, "config": dict}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            return f"got {found[key]!r} as {key}" if key in found else f"no {key}"
    if not found["seeds"] or any(type(seed) is not int for seed in found["seeds"]):
        return f"got {found['seeds']!r} as seeds"
    named = found.get("versions", {})
    if not isinstance(named, dict):
        return f"got {named!r} as versions"
    return ""


def _named(value: Any) -> str:
    return _show(value) or "(none)"


def _show(value: Any) -> str:
    if value is None:
        return "(absent)"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
