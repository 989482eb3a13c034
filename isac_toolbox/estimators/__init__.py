"""Estimators: an observation in, a result out."""

from isac_toolbox._compilation import announce_compilation
from isac_toolbox.estimators.baselines.channel_only import result_from_channel
from isac_toolbox.estimators.baselines.genie import GenieLMMSE
from isac_toolbox.estimators.baselines.least_squares import LeastSquares
from isac_toolbox.estimators.baselines.nomp import NOMP
from isac_toolbox.estimators.baselines.omp import OMP
from isac_toolbox.estimators.bisvbi import EMTurboBiSVBI
from isac_toolbox.estimators.many import estimate_many
from isac_toolbox.estimators.music_scvbi import MusicSCVBI
from isac_toolbox.estimators.range_doppler import RangeDopplerMap, range_doppler_map
from isac_toolbox.estimators.recorder import SceneRecorder, SceneSnapshot
from isac_toolbox.estimators.result import (
    Ambiguity,
    Candidates,
    ElementInformation,
    EstimationResult,
    Misfit,
    MisfitAxis,
    SceneInformation,
)
from isac_toolbox.estimators.scene.first import ExpectedScene
from isac_toolbox.estimators.self_calibration import calibrate

__all__ = [
    "NOMP",
    "OMP",
    "Ambiguity",
    "Candidates",
    "EMTurboBiSVBI",
    "ElementInformation",
    "EstimationResult",
    "ExpectedScene",
    "GenieLMMSE",
    "LeastSquares",
    "Misfit",
    "MisfitAxis",
    "MusicSCVBI",
    "RangeDopplerMap",
    "SceneInformation",
    "SceneRecorder",
    "SceneSnapshot",
    "calibrate",
    "estimate_many",
    "range_doppler_map",
    "result_from_channel",
]

announce_compilation()
