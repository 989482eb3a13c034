"""Estimators: an observation in, a result out."""

from isac_toolbox.estimators.bisvbi import EMTurboBiSVBI
from isac_toolbox.estimators.result import Candidates, EstimationResult

__all__ = ["Candidates", "EMTurboBiSVBI", "EstimationResult"]
