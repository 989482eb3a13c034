"""Classical baselines with the interface of the joint estimator."""

from isac_toolbox.estimators.baselines.channel_only import result_from_channel
from isac_toolbox.estimators.baselines.genie import GenieLMMSE
from isac_toolbox.estimators.baselines.least_squares import LeastSquares
from isac_toolbox.estimators.baselines.nomp import NOMP
from isac_toolbox.estimators.baselines.omp import OMP

__all__ = ["NOMP", "OMP", "GenieLMMSE", "LeastSquares", "result_from_channel"]
