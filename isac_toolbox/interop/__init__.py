"""Other people's programs and files: their conventions turned into ours, and back (docs/interop.md).

``sionna`` puts our estimators into Sionna's link-level simulations, ``sionna_rt`` and ``deepmimo`` read
ray-traced scenes, ``csi`` reads measured channels, and ``conventions`` has the converters one by one.
"""

from __future__ import annotations

__all__: list[str] = ["conventions", "csi"]
