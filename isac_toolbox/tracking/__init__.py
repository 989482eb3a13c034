"""Successive blocks: users, clocks and scatterers followed (docs/theory.md, section 11)."""

from isac_toolbox.tracking.result import TrackedResult
from isac_toolbox.tracking.tracker import Tracker

__all__ = ["TrackedResult", "Tracker"]
