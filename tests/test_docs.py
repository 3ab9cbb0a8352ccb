"""What the documents say is true: the README's list, its example, its commands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from experiments import manual
from experiments.registry import EXPERIMENTS
from verify import RULES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_lists_the_registry():
    assert manual.listing(EXPERIMENTS.values()) in README, (
        "paste the output of `python launch.py --list` into the README"
    )


def test_the_readme_example_prunes_a_model(key):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    keys = jax.random.split(key, 3)
    params = {
        "fc1": {"kernel": jax.random.normal(keys[0], (8, 20)), "bias": jnp.zeros(20)},
        "head": {"kernel": jax.random.normal(keys[1], (20, 1)), "bias": jnp.zeros(1)},
    }

    def loss(params, x, y):
        x = jnp.tanh(x @ params["fc1"]["kernel"] + params["fc1"]["bias"][None])
        return jnp.mean((x @ params["head"]["kernel"] - y) ** 2)

    x = jax.random.normal(keys[2], (3, 16, 8))
    names = {"params": params, "loss": loss, "batches": [(b, b[:, :1]) for b in x]}
    with jax.numpy_dtype_promotion("standard"):
        exec(example.group(1), names)  # the user's own code
    left = trees.by_path(names["params"])
    assert int(np.count_nonzero(left["fc1/kernel"])) == 8
    assert int(np.count_nonzero(left["head/kernel"])) == 20
    assert names["masks"]["head"]["kernel"] is None


def blocks(document):
    return re.findall(r"```python\n(.*?)```", document, re.DOTALL)


def test_the_readme_example_verifies_a_model(key):
    example = next(b for b in blocks(README) if "import verify" in b)
    kernel = jax.random.normal(key, (4, 3))
    x = np.full(4, 0.5)

    def fn(params, x):
        return jax.nn.relu(x @ params["kernel"]) @ jnp.eye(3, 10, dtype=x.dtype)

    label = int(jnp.argmax(fn({"kernel": kernel}, jnp.asarray(x, jnp.float32))))
    names = {"fn": fn, "params": {"kernel": kernel}, "x": x, "label": label}
    exec(example, names)  # the user's own code
    assert names["verdict"].status in ("sat", "unsat")


def test_the_readme_example_quantizes_a_model(key, capsys):
    example = next(b for b in blocks(README) if "import quant" in b)
    params = {"fc": {"kernel": jax.random.normal(key, (4, 3))}}
    names = {"apply": lambda params, x: x @ params["fc"]["kernel"], "params": params}
    exec(example, names)  # the user's own code
    out = names["network"](params, jnp.ones((2, 4)))
    np.testing.assert_allclose(out, names["apply"](params, jnp.ones((2, 4))), atol=1)
    assert "SumOfPowers(bits=4)" in capsys.readouterr().out


def test_the_examples_of_the_verification_page_run():
    names = {}
    before = dict(RULES)
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            for block in blocks((ROOT / "docs" / "verify.md").read_text()):
                exec(block, names)  # asserts are in the blocks
    finally:
        RULES.clear()
        RULES.update(before)
    assert names["proof"].leaves


def test_the_examples_of_the_sparsity_page_run():
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / "docs" / "sparsity.md").read_text()):
            exec(block, names)  # asserts are in the blocks
    assert names["small"].removed


def test_the_examples_of_the_quantization_page_run():
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / "docs" / "quant.md").read_text()):
            exec(block, names)  # asserts are in the blocks
    assert names["noise"].keys() == {"fc1/kernel", "fc2/kernel"}


def test_the_examples_of_the_admm_page_run():
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / "docs" / "admm.md").read_text()):
            exec(block, names)  # asserts are in the blocks
    assert names["cell"].blocks == (8, 8)


def test_the_readme_example_minimises_a_simulation():
    example = next(b for b in blocks(README) if "import zo" in b)

    def simulate(x):
        if x[0] > 3:
            raise RuntimeError("diverged")
        return np.square(x - 1).sum()

    names = {"simulate": simulate, "x": jnp.zeros(20), "jax": jax}
    with jax.numpy_dtype_promotion("standard"):
        exec(example, names)  # the user's own code
    assert simulate(np.asarray(names["x"])) < 2


def test_the_examples_of_the_page_on_function_values_run():
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / "docs" / "zo.md").read_text()):
            exec(block, names)  # asserts are in the blocks
    assert names["found"].success


def test_the_examples_of_the_hardware_page_run(capsys):
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks((ROOT / "docs" / "hw.md").read_text()):
            exec(block, names)  # asserts are in the blocks
    assert names["table"].unknown == ()
    assert "what would have to change" in capsys.readouterr().out


def test_the_readme_example_prices_a_model(capsys):
    example = next(b for b in blocks(README) if "import hw" in b)
    params = {"fc": {"kernel": jnp.ones((64, 32))}}
    names = {"apply": lambda params, x: x @ params["fc"]["kernel"], "params": params}
    exec(example, {**names, "x": jnp.ones((2, 64))})  # the user's own code
    assert "fc/kernel" in capsys.readouterr().out


def test_no_local_link_of_the_documents_is_broken():
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_no_file_is_longer_than_the_house_allows():
    library = ("core", "graph", "gap", "admm", "verify", "quant", "zo", "hw")
    rooms = (*library, "experiments", "benchmarks", "tests")
    files = [ROOT / "launch.py", *(p for r in rooms for p in (ROOT / r).rglob("*.py"))]
    assert len(files) > 50
    for path in files:
        assert len(path.read_text().splitlines()) <= 600, path.name
