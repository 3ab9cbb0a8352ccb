"""The examples of docs/patterns.md run, and it speaks of every pattern."""

import re
from pathlib import Path

import jax

import gap

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "patterns.md").read_text()


def test_the_examples_run():
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block, names)  # asserts are in the blocks
    assert names["table"]


def test_every_pattern_is_on_the_page():
    assert all(f"`{cls.__name__}" in PAGE for cls in gap.PATTERNS.values())
