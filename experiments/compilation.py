"""The compiled programs that one run leaves for the next."""


def keep_programs() -> None:
    """Lets JAX keep what it compiles in the cache folder of `experiments.data`.

    A folder that is set already is left as it is, by `JAX_COMPILATION_CACHE_DIR` say.
    XLA looks programs up by their content, so a stale one is never taken.
    """
    import jax

    from experiments.data import cache_dir

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        folder = cache_dir() / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
