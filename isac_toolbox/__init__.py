"""Integrated sensing and communication: one received block in, the whole scene out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from isac_toolbox._version import __version__

_PUBLIC = {
    "Scenario": "isac_toolbox.scenario",
    "Simulation": "isac_toolbox.scenario",
    "Truth": "isac_toolbox.scenario",
    "scenario_names": "isac_toolbox.scenario",
    "UniformPlanarArray": "isac_toolbox.channel",
    "ArbitraryArray": "isac_toolbox.channel",
    "PanelArray": "isac_toolbox.channel",
    "UplinkObservation": "isac_toolbox.channel",
    "ElementResponse": "isac_toolbox.channel",
    "Environment": "isac_toolbox.channel",
    "UnlocatedPaths": "isac_toolbox.channel",
    "ImplausibleValueWarning": "isac_toolbox.channel",
    "load_traced": "isac_toolbox.channel",
    "observation_from_channel": "isac_toolbox.channel",
    "qam_constellation": "isac_toolbox.channel",
    "ConstantVelocity": "isac_toolbox.channel",
    "EMTurboBiSVBI": "isac_toolbox.estimators",
    "MusicSCVBI": "isac_toolbox.estimators",
    "NOMP": "isac_toolbox.estimators",
    "OMP": "isac_toolbox.estimators",
    "LeastSquares": "isac_toolbox.estimators",
    "GenieLMMSE": "isac_toolbox.estimators",
    "EstimationResult": "isac_toolbox.estimators",
    "calibrate": "isac_toolbox.estimators",
    "range_doppler_map": "isac_toolbox.estimators",
    "sweep": "isac_toolbox.sweeps",
    "SweepResult": "isac_toolbox.sweeps",
    "load_sweep": "isac_toolbox.sweeps",
    "Tracker": "isac_toolbox.tracking",
    "TrackedResult": "isac_toolbox.tracking",
}
_MODULES = (
    "bounds",
    "channel",
    "estimators",
    "inference",
    "interop",
    "metrics",
    "plotting",
    "scenario",
    "sweeps",
    "tracking",
)

# Needs an extra; not in ``__all__``, so that a star import does not ask for it.
_OPTIONAL_MODULES = ("nn",)

__all__ = ["__version__", *sorted(_PUBLIC), *_MODULES]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of the toolbox

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            value = getattr(import_module(_PUBLIC[name]), name)
        elif name in _MODULES or name in _OPTIONAL_MODULES:
            value = import_module(f"isac_toolbox.{name}")
        else:
            raise AttributeError(f"module 'isac_toolbox' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


if TYPE_CHECKING:
    from isac_toolbox import bounds as bounds
    from isac_toolbox import channel as channel
    from isac_toolbox import estimators as estimators
    from isac_toolbox import inference as inference
    from isac_toolbox import interop as interop
    from isac_toolbox import metrics as metrics
    from isac_toolbox import nn as nn
    from isac_toolbox import plotting as plotting
    from isac_toolbox import scenario as scenario
    from isac_toolbox import sweeps as sweeps
    from isac_toolbox import tracking as tracking
    from isac_toolbox.channel import ArbitraryArray as ArbitraryArray
    from isac_toolbox.channel import ConstantVelocity as ConstantVelocity
    from isac_toolbox.channel import ElementResponse as ElementResponse
    from isac_toolbox.channel import Environment as Environment
    from isac_toolbox.channel import ImplausibleValueWarning as ImplausibleValueWarning
    from isac_toolbox.channel import PanelArray as PanelArray
    from isac_toolbox.channel import UniformPlanarArray as UniformPlanarArray
    from isac_toolbox.channel import UnlocatedPaths as UnlocatedPaths
    from isac_toolbox.channel import UplinkObservation as UplinkObservation
    from isac_toolbox.channel import load_traced as load_traced
    from isac_toolbox.channel import observation_from_channel as observation_from_channel
    from isac_toolbox.channel import qam_constellation as qam_constellation
    from isac_toolbox.estimators import NOMP as NOMP
    from isac_toolbox.estimators import OMP as OMP
    from isac_toolbox.estimators import EMTurboBiSVBI as EMTurboBiSVBI
    from isac_toolbox.estimators import EstimationResult as EstimationResult
    from isac_toolbox.estimators import GenieLMMSE as GenieLMMSE
    from isac_toolbox.estimators import LeastSquares as LeastSquares
    from isac_toolbox.estimators import MusicSCVBI as MusicSCVBI
    from isac_toolbox.estimators import calibrate as calibrate
    from isac_toolbox.estimators import range_doppler_map as range_doppler_map
    from isac_toolbox.scenario import Scenario as Scenario
    from isac_toolbox.scenario import Simulation as Simulation
    from isac_toolbox.scenario import Truth as Truth
    from isac_toolbox.scenario import scenario_names as scenario_names
    from isac_toolbox.sweeps import SweepResult as SweepResult
    from isac_toolbox.sweeps import load_sweep as load_sweep
    from isac_toolbox.sweeps import sweep as sweep
    from isac_toolbox.tracking import TrackedResult as TrackedResult
    from isac_toolbox.tracking import Tracker as Tracker
