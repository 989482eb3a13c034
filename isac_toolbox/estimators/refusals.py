"""Whether data that contradict the pilots are wrong, or pilots distorted (docs/theory.md, section 7.7)."""

from __future__ import annotations

import numpy as np

from isac_toolbox.estimators.result import EstimationResult

__all__ = ["decided_alike", "turns"]

# Guard: share of decisions that may differ; of a user whose decisions confirmed themselves half do.
_DIFFERENT = 0.01
# Guard: share of the residual that a factor of every user and symbol explains; distortion leaves them less.
_TURNING = 0.03


def decided_alike(first: EstimationResult, second: EstimationResult) -> bool:
    """Return whether two estimates of one block decided its data alike."""
    data = first.symbol_decision >= 0
    if not data.any():
        return True
    return bool(np.mean(first.symbol_decision[data] != second.symbol_decision[data]) <= _DIFFERENT)


def turns(result: EstimationResult) -> bool:
    """Return whether users' signals turn from symbol to symbol so that this is much of what is left."""
    misfit = result.misfit
    if misfit is None or misfit.time.part != "rotation" or "time" not in misfit.failing:
        return False
    n_users, n_sub, n_symbols = result.symbol_mean.shape
    share = n_users * (n_symbols - 1) / (n_sub * result.channel.shape[2] * n_symbols)
    return share * 10 ** (misfit.time.excess_db / 10) > _TURNING
