"""Ready estimators by name, for the command line and for sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

__all__ = ["CATALOGUE", "Entry", "find_entry", "from_catalogue"]


@dataclass(frozen=True)
class Entry:
    """One ready estimator.

    Attributes
    ----------
    class_name : str
        A class of :mod:`isac_toolbox.estimators`.
    summary : str
        What sets it apart, in a few words.
    settings : mapping
        Where it differs from the defaults of the class.
    needs_truth : bool
        It is given the simulation's truth.
    """

    class_name: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs_truth: bool = False

    @property
    def estimator_class(self) -> type:
        """The class itself."""
        found: type = getattr(import_module("isac_toolbox.estimators"), self.class_name)
        return found

    @property
    def free_settings(self) -> list[str]:
        """Settings of the class that this entry leaves open."""
        names = [f.name for f in fields(self.estimator_class) if f.init]
        return [name for name in names if name not in self.settings and name != "truth"]

    def make(self, truth: Any = None, **settings: Any) -> Any:
        """Return an estimator; ``settings`` come on top of those of the entry.

        Raises
        ------
        ValueError
            If the truth is needed and not given, or for a bad setting.
        """
        given = {**self.settings, **settings}
        if self.needs_truth:
            if truth is None:
                raise ValueError(f"{self.class_name} needs the truth of a simulation")
            given["truth"] = truth
        return self.estimator_class(**given)


_BISVBI = "EMTurboBiSVBI"

CATALOGUE: dict[str, Entry] = {
    "bisvbi": Entry(_BISVBI, "the main estimator with its default settings"),
    "music-scvbi": Entry("MusicSCVBI", "MUSIC candidates and sparse inference at fixed positions"),
    "nomp": Entry("NOMP", "newtonised OMP per user, then location and fusion"),
    "omp": Entry("OMP", "simultaneous OMP on a grid of locations"),
    "ls": Entry("LeastSquares", "least-squares channel, no scene"),
    "genie": Entry("GenieLMMSE", "detection with the true channel", needs_truth=True),
    "full-vbi": Entry(_BISVBI, "the main estimator with a full inverse on a grid", {"inverse": "full"}),
    "mm-vbi": Entry(_BISVBI, "the main estimator inverse-free on a grid", {"inverse": "mm"}),
    "mean-field": Entry(_BISVBI, "the main estimator with mean-field updates", {"rule": "mean_field"}),
    "structured": Entry(_BISVBI, "the main estimator with structured updates", {"rule": "structured"}),
    "gradient": Entry(_BISVBI, "the main estimator with gradient steps", {"m_step": "gradient"}),
    "pilot-only": Entry(_BISVBI, "the main estimator without data aid", {"data_aided": False}),
}


def find_entry(name: str) -> Entry:
    """Return the entry of a name.

    Raises
    ------
    ValueError
        For an unknown name; the known ones are listed.
    """
    if name not in CATALOGUE:
        raise ValueError(f"unknown estimator {name!r}; known are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def from_catalogue(name: str) -> Any | Callable[[Any], Any]:
    """Return an estimator by name or, if it needs the truth, a function of the truth that makes it."""
    entry = find_entry(name)
    return entry.estimator_class if entry.needs_truth else entry.make()
