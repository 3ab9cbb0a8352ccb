"""Targets by name; each is a pytree of constants, see `hw.constants_table`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from core.errors import unknown_name
from hw.cost import Target
from hw.targets import arrays, devices, fpgas, memories

_ALL = (
    *(devices.HOST, devices.MOBILE_CPU, devices.MOBILE_GPU),
    *(devices.SERVER_GPU, devices.TPU_V1),
    *(fpgas.ZC706, fpgas.ZCU102, fpgas.ULTRA96),
    *(fpgas.MSQ_XC7Z020, fpgas.MSQ_XC7Z045, fpgas.ESB_ZCU102),
    *(arrays.SA, arrays.SA_ZVCG, arrays.SA_SMT, arrays.S2TA_W, arrays.S2TA_AW),
    *(arrays.ANT, arrays.BITFUSION, arrays.ADAFLOAT, arrays.BISCALED),
    *(arrays.OLACCEL, arrays.EYERISS, memories.CAPRAM, memories.MEMRISTOR),
)
TARGETS: Mapping[str, Target] = MappingProxyType({each.name: each for each in _ALL})
"""Every target by its name."""


def get(name: str) -> Any:
    """Returns a target of `TARGETS`, with the constants and methods of its class.

    Raises:
      UnknownNameError: no such target; the message has the nearest names.
    """
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]
