"""docs/BENCHMARKS.md from the JSON files of benchmarks.

python -m benchmarks.training_step --json=runs/training_step.json
python -m benchmarks.projection --json=runs/projection.json
python -m benchmarks.report runs/training_step.json runs/projection.json

Sections of other benchmarks stay as they are; `--only` drops them.
"""

import argparse
import json
import re
from pathlib import Path

from benchmarks import _timing
from core.errors import InputError, describe

HEAD = """\
# Benchmarks

Written by `python -m benchmarks.report` from the files that benchmarks write. Every
table comes from one run in which rows that are compared were timed in turns; figures
are medians, compilation stands apart, and `recompiled` counts compilations after the
first call.
"""


def section(path: Path) -> str:
    """Returns the part of one file.

    Args:
      path: written by a benchmark's `--json`; its stem is the benchmark's name.

    Raises:
      InputError: no benchmark has that name.
    """
    if not Path(__file__).with_name(f"{path.stem}.py").exists():
        wanted = "the name of a benchmark, such as training_step.json"
        raise InputError(describe(path.name, wanted, "Rename the file."))
    found = json.loads(path.read_text())
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    columns = found.get("columns") or list(
        dict.fromkeys(key for row in found["rows"] for key in row)
    )
    table = _timing.table(found["rows"], columns)
    title = f"## {path.stem}\n\n`python -m benchmarks.{path.stem}` on {machine}."
    note = f"\n{found['note']}\n" if "note" in found else ""
    return f"{title}\n{note}\n```\n{table}\n```\n"


def sections(text: str) -> dict[str, str]:
    """Returns the parts of a document by the name of their benchmark."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0][3:]: part.rstrip("\n") + "\n" for part in parts}


def main() -> None:
    """Writes the document."""
    parser = argparse.ArgumentParser(description="docs/BENCHMARKS.md from JSON files.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/BENCHMARKS.md"))
    parser.add_argument("--only", action="store_true", help="drop other sections")
    args = parser.parse_args()
    kept = args.out.exists() and not args.only
    parts = sections(args.out.read_text()) if kept else {}
    try:
        parts |= {path.stem: section(path) for path in args.files}
    except InputError as error:
        parser.error(str(error))
    args.out.write_text("\n".join([HEAD, *parts.values()]))
    print(args.out)


if __name__ == "__main__":
    main()
