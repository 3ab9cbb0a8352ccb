"""Flags of a subprocess that sees several host devices."""

import os


def xla_flags(devices: int) -> str:
    """Returns the flags of this process with a number of host devices."""
    own = os.environ.get("XLA_FLAGS", "")
    return f"{own} --xla_force_host_platform_device_count={devices}".strip()
