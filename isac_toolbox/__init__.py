"""Integrated sensing and communication: one received block in, the whole scene out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Scenario": "isac_toolbox.scenario",
    "Simulation": "isac_toolbox.scenario",
    "Truth": "isac_toolbox.scenario",
    "scenario_names": "isac_toolbox.scenario",
    "UniformPlanarArray": "isac_toolbox.channel",
    "UplinkObservation": "isac_toolbox.channel",
    "Environment": "isac_toolbox.channel",
    "UnlocatedPaths": "isac_toolbox.channel",
    "load_traced": "isac_toolbox.channel",
    "qam_constellation": "isac_toolbox.channel",
    "EMTurboBiSVBI": "isac_toolbox.estimators",
    "MusicSCVBI": "isac_toolbox.estimators",
    "NOMP": "isac_toolbox.estimators",
    "LeastSquares": "isac_toolbox.estimators",
    "GenieLMMSE": "isac_toolbox.estimators",
    "EstimationResult": "isac_toolbox.estimators",
}
_MODULES = ("bounds", "channel", "estimators", "inference", "metrics", "plotting", "scenario")

__all__ = ["__version__", *sorted(_PUBLIC), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = import_module(f"isac_toolbox.{name}")
    else:
        raise AttributeError(f"module 'isac_toolbox' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


if TYPE_CHECKING:
    from isac_toolbox import bounds, channel, estimators, inference, metrics, plotting, scenario
    from isac_toolbox.channel import (
        Environment,
        UniformPlanarArray,
        UnlocatedPaths,
        UplinkObservation,
        load_traced,
        qam_constellation,
    )
    from isac_toolbox.estimators import (
        NOMP,
        EMTurboBiSVBI,
        EstimationResult,
        GenieLMMSE,
        LeastSquares,
        MusicSCVBI,
    )
    from isac_toolbox.scenario import Scenario, Simulation, Truth, scenario_names
