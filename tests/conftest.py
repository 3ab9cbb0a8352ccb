"""Strict numerics, one compilation cache, keys and the data folder."""

import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a run is compilation of what is called once: XLA need not polish it. Not level
# 0, though: it computes wrong numbers (jaxlib 0.10). The older emitters compile faster;
# XLA aborts on flags that it no longer has.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_parallel_codegen_split_count=1"  # parts are work on top, done at once
    + " --xla_cpu_prefer_vector_width=128"  # a sixth less to compile than with 256
    # Short loops stay loops: a quarter less of all the suite's time.
    + " --xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
    + ",xla_cpu_optimize_for_size"
    + " --xla_cpu_use_fusion_emitters=false" * (version("jaxlib") < "0.12"),
)

# The workers and the processes that tests start share what they compile.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# A shell starts background jobs with SIGINT ignored, and children inherit that; tests
# that interrupt a run need the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Traces are many small objects that live on: looking through them often is in vain.
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes the first example slow; examples are shared shapes, see strategies.
# A run is the same everywhere; HYPOTHESIS_PROFILE=explore looks for new examples.
settings.register_profile("lathe", deadline=None, max_examples=10, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lathe"))


LONGEST = (
    *("test_launch.py", "test_docs.py", "test_edges.py", "test_bitwidth.py"),
    *("test_memories.py", "test_onnx_operators.py", "test_falsify.py"),
    *("test_relaxations.py", "test_squant.py", "test_bounds.py", "test_windows.py"),
    *("test_contracts.py", "test_models.py"),
)
"""Files that begin a parallel run, so that none of them is alone at its end."""


def pytest_collection_modifyitems(items):
    """Sorts the longest files to the front."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def _modules():
    """The number of modules that have ended."""
    return [0]


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(_modules):
    """Frees what some modules compiled: a whole run holds gigabytes otherwise."""
    yield
    _modules[0] += 1
    if _modules[0] % 32 == 0:
        jax.clear_caches()


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data and models, or a skip that says where it was sought."""
    root = Path(os.environ.get("LATHE_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not root.is_dir():
        pytest.skip(f"no data folder at {root}: set LATHE_DATA")
    return root
