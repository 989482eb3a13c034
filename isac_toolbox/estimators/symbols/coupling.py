"""Mutual coupling of the elements, learned from the samples (docs/theory.md, section 6.12)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.coupling import CouplingKinds
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["Coupling", "takes_coupling"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def takes_coupling(obs: UplinkObservation) -> bool:
    """Return whether coupling can be taken into account: not with beam squint, nor on other arrays."""
    return isinstance(obs.array, UniformPlanarArray) and not obs.beam_squint and obs.array.n_elements > 1


@dataclass(frozen=True, eq=False)
class Coupling:
    """Present estimate of what elements hear of each other, one complex number for each kind of pair.

    Attributes
    ----------
    kinds : CouplingKinds
    prior_stds : ndarray, shape (R,)
        ``sqrt(E|kappa|^2)``.
    coefficients : ndarray of complex, shape (R,)
    covariance : ndarray, shape (2 R, 2 R)
        Posterior of real, then imaginary parts, paths integrated out.
    n_determined : float
        Complex parameters that the samples tell rather than the prior.
    """

    kinds: CouplingKinds
    prior_stds: RealArray
    coefficients: ComplexArray
    covariance: RealArray
    n_determined: float = 0.0

    @classmethod
    def of(cls, obs: UplinkObservation) -> Coupling | None:
        """Return what is known beforehand; None where elements do not hear each other."""
        if obs.hardware is None or not obs.hardware.coupling_std or not takes_coupling(obs):
            return None
        assert isinstance(obs.array, UniformPlanarArray)
        kinds = CouplingKinds.of(obs.array)
        stds = obs.hardware.coupling_std * kinds.relative_stds
        return cls(kinds, stds, np.zeros(stds.size, complex), np.diag(np.tile(stds**2 / 2, 2)))

    @cached_property
    def matrix(self) -> ComplexArray:
        """What elements hear of each other, shape (M, M)."""
        return self.kinds.matrix(self.coefficients)

    @property
    def stds(self) -> RealArray:
        """Posterior deviations of the coefficients, shape (R,)."""
        variances = np.maximum(np.diag(self.covariance), 0.0).reshape(2, -1)
        return np.asarray(np.sqrt(variances.sum(axis=0)))

    def at(self, values: RealArray, covariance: RealArray, n_determined: float) -> Coupling:
        """Return the estimate at other real, then imaginary parts (2 R,), of a covariance (2 R, 2 R)."""
        real, imaginary = values.reshape(2, -1)
        return replace(
            self, coefficients=real + 1j * imaginary, covariance=covariance, n_determined=n_determined
        )
