"""The compiled programs that one run leaves for the next."""

import os


def keep_programs() -> None:
    """Lets JAX keep what it compiles in the cache folder of `experiments.data`.

    A folder that `JAX_COMPILATION_CACHE_DIR` names is used instead; XLA looks programs
    up by their content, so a stale one is never taken.
    """
    import jax

    from experiments.data import cache_dir

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = cache_dir() / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
