"""Other people's programs and files: their conventions turned into ours, and back (docs/interop.md).

``sionna`` puts our estimators into Sionna's link-level simulations and needs the extra of that name,
``sionna_rt`` and ``deepmimo`` read ray-traced scenes, ``csi`` reads measured channels, and ``conventions``
has the converters one by one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["conventions", "csi", "deepmimo", "sionna_rt"]


def __getattr__(name: str) -> Any:
    if name not in (*__all__, "sionna"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
