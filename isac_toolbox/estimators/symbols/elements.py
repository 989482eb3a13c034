"""Gain and phase of every element of the array, learned from the samples (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.hardware import Hardware
from isac_toolbox.estimators.symbols.joint_elements import JointPrior

__all__ = ["ElementErrors", "joint_prior", "phase_slopes", "slope_stds"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: largest logarithm of a learned gain, 260 dB; a step that diverges ends there, where division is safe.
_LARGEST_LOG_GAIN = 30.0


@dataclass(frozen=True, eq=False)
class ElementErrors:
    """Present estimate of the elements' responses ``nominal exp(alpha + j beta)``.

    Of the gains the mean, and of the phases the mean and the slopes over the array are left out: the path
    gains, and a turn of all directions (section 6.9), take these.

    Attributes
    ----------
    nominal : ndarray of complex, shape (M,)
    gain_stds, phase_stds : ndarray, shape (M,)
        Of the priors of ``alpha`` and ``beta``, of mean zero.
    slopes : ndarray, shape (M, 3)
        Columns that phases have no part in.
    log_response : ndarray of complex, shape (M,)
        ``alpha + j beta``.
    log_stds : ndarray, shape (2, M)
        Posterior deviations of both.
    joint : JointPrior, optional
        Prior of gains and phases together, where those of different elements are not independent.
    """

    nominal: ComplexArray
    gain_stds: RealArray
    phase_stds: RealArray
    slopes: RealArray
    log_response: ComplexArray
    log_stds: RealArray
    joint: JointPrior | None = None

    @classmethod
    def of(cls, hardware: Hardware | None, array: AntennaArray) -> ElementErrors | None:
        """Return what is known beforehand; None where the elements' responses are known."""
        if hardware is None or not (hardware.has_element_errors or np.any(hardware.response != 1)):
            return None
        joint, stds = joint_prior(hardware, array), np.stack([hardware.gain_stds, hardware.phase_stds])
        if joint is not None:
            stds = np.sqrt(np.diag(joint.covariance)).reshape(2, -1)
        return cls(
            hardware.response,
            stds[0],
            stds[1],
            np.column_stack([np.ones(array.n_elements), *phase_slopes(array)]),
            np.zeros(array.n_elements, complex),
            stds,
            joint,
        )

    @property
    def response(self) -> ComplexArray:
        """Present responses, shape (M,)."""
        return np.asarray(self.nominal * np.exp(self.log_response))

    def refined(self, left: ComplexArray, energy: RealArray, precision: float) -> ElementErrors:
        """Return the estimate after a Gauss-Newton step, the channel as it is.

        Parameters
        ----------
        left : ndarray of complex, shape (M,)
            Inner products of the fitted signal on every element with what it leaves there.
        energy : ndarray, shape (M,)
            Of the fitted signal on every element.
        precision : float
            Of the noise, per sample.
        """
        information = 2 * precision * np.maximum(energy, 0.0)
        target = information * self.log_response + 2 * precision * left
        parts, stds = [], []
        for part, prior in ((target.real, self.gain_stds), (target.imag, self.phase_stds)):
            variance = np.where(prior > 0, 1 / (information + 1 / np.maximum(prior, 1e-150) ** 2), 0.0)
            parts.append(variance * part)
            stds.append(np.sqrt(variance))
        heard = information > 0
        gains = _without(parts[0], self.slopes[:, :1], self.gain_stds * heard)
        gains = np.clip(gains, -_LARGEST_LOG_GAIN, _LARGEST_LOG_GAIN)
        phases = _without(parts[1], self.slopes, self.phase_stds * heard)
        return replace(self, log_response=gains + 1j * phases, log_stds=np.stack(stds))

    @property
    def covariance(self) -> RealArray:
        """Of the prior of all gains, then all phases, shape (2 M, 2 M)."""
        if self.joint is not None:
            return self.joint.covariance
        return np.diag(np.concatenate([self.gain_stds, self.phase_stds]) ** 2)

    @property
    def n_determined(self) -> float:
        """Real parameters that the samples tell rather than the prior."""
        before = np.stack([self.gain_stds, self.phase_stds]) ** 2
        return float(np.sum(np.where(before > 0, 1 - self.log_stds**2 / np.maximum(before, 1e-300), 0.0)))

    def at(self, values: RealArray, deviations: RealArray) -> ElementErrors:
        """Return the estimate at other values (2 M,), without what path gains and directions have of them."""
        gains, phases = values.reshape(2, -1)
        if self.joint is not None:
            gains, phases = self.joint.without_shared(values).reshape(2, -1)
        else:
            gains = _without(gains, self.slopes[:, :1], self.gain_stds)
            phases = _without(phases, self.slopes, self.phase_stds)
        return replace(self, log_response=gains + 1j * phases, log_stds=deviations.reshape(2, -1))


def _without(values: RealArray, columns: RealArray, stds: RealArray) -> RealArray:
    """Values less the columns' part in them, fitted with the priors' weights; zero where they are known."""
    weight = stds / max(float(stds.max(initial=0.0)), 1e-300)
    if not weight.any():
        return np.zeros_like(values)
    fitted, *_ = np.linalg.lstsq(columns * weight[:, None], values * weight, rcond=None)
    return np.where(stds > 0, values - columns @ fitted, 0.0)


def phase_slopes(array: AntennaArray) -> tuple[RealArray, RealArray]:
    """Return the derivatives of the elements' phases in both direction cosines, each (M,), without mean."""
    here = array.response_with_derivatives(np.zeros(1), np.zeros(1))
    in_h, in_v = (np.imag(here[d, 0] / here[0, 0]) for d in (1, 2))
    return in_h - in_h.mean(), in_v - in_v.mean()


def joint_prior(hardware: Hardware, array: AntennaArray) -> JointPrior | None:
    """Return the prior of gains and phases together; None where elements are independent."""
    if hardware.joint_covariance is None:
        return None
    n_elements, ones = array.n_elements, np.ones(array.n_elements)
    shared = np.zeros((2 * n_elements, 4))
    shared[:n_elements, 0], shared[n_elements:, 1] = ones, ones
    shared[n_elements:, 2:] = np.column_stack(phase_slopes(array))
    return JointPrior(hardware.element_covariance, shared)


def slope_stds(hardware: Hardware | None, array: AntennaArray) -> RealArray:
    """Return the deviations of both direction cosines that random phases of the elements look like, (2,).

    The slopes that least squares would fit to them over the array.
    """
    if hardware is None:
        return np.zeros(2)
    joint = joint_prior(hardware, array)
    if joint is not None:
        return joint.slope_stds
    if not np.any(hardware.phase_stds):
        return np.zeros(2)
    if isinstance(array, UniformPlanarArray) and min(array.shape) == 1:
        sees = np.array(array.sees_cosines)
    else:
        sees = np.ones(2, bool)
    slopes = np.column_stack(phase_slopes(array))[:, sees]
    inverse = np.linalg.pinv(slopes)
    stds = np.zeros(2)
    stds[sees] = np.sqrt(np.sum(inverse**2 * hardware.phase_stds**2, axis=1))
    return stds
