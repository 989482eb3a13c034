"""What is known beforehand of the receiver's hardware: errors of its array, colour of its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_array, as_scalar, check_finite, check_non_negative, check_shape
from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.plausible_priors import warn_of_implausible_hardware

__all__ = ["ESTIMATED_NOISE", "HARDWARE_FIELDS", "Hardware", "checked_hardware"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

#: What ``noise_covariance`` may be instead of a matrix: its shape is to be found from the samples.
ESTIMATED_NOISE = "estimate"
#: Deviations, each with the shapes that it may have, M elements.
_DEVIATIONS: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "element_gain_std": ((), ("M",)),
    "element_phase_std_rad": ((), ("M",)),
    "array_rotation_std_rad": ((), (3,)),
    "coupling_std": ((),),
}
#: Fields of an observation that describe the receiver.
HARDWARE_FIELDS = (*_DEVIATIONS, "element_response", "noise_covariance")
# Relative rounding that a Hermitian matrix and its trace may have.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Hardware:
    """Priors of the errors of a receive array, for every element, and the shape of its noise.

    Element ``m`` multiplies what its antenna hears by ``response[m] exp(alpha_m + j beta_m)``.

    Attributes
    ----------
    gain_stds, phase_stds : ndarray, shape (M,)
        Deviations of the relative gains ``alpha`` and of the phases ``beta`` in radians, of mean zero.
    response : ndarray of complex, shape (M,)
        Known response of every element, one where nothing is known.
    rotation_stds : ndarray, shape (3,)
        Deviations in radians of a small rotation of the array about its own axes: boresight (roll),
        horizontal (tilt), vertical (azimuth).
    coupling_std : float
        Deviation ``sqrt(E|kappa|^2)`` of the complex coefficient between neighbours in the planar grid.
    noise_covariance : ndarray of complex, shape (M, M), or None
        Known shape of the noise over the elements, of trace M; None where it is white or not known.
    estimates_noise : bool
        Whether the shape is to be found from the samples.

    Notes
    -----
    docs/theory.md, section 1.8.
    """

    gain_stds: RealArray
    phase_stds: RealArray
    response: ComplexArray
    rotation_stds: RealArray
    coupling_std: float
    noise_covariance: ComplexArray | None
    estimates_noise: bool

    @classmethod
    def of(cls, given: Mapping[str, Any], n_elements: int) -> Hardware | None:
        """Return what checked fields say; None where the receiver is perfect: nothing, or nothing but zeros.

        Responses of one and a white covariance count as nothing.

        Parameters
        ----------
        given : mapping of str to ndarray, str or None
            ``HARDWARE_FIELDS``, as :func:`checked_hardware` returns them.
        n_elements : int

        Returns
        -------
        Hardware or None
        """

        def spread(name: str, *shape: int) -> RealArray:
            value = given[name]
            return np.broadcast_to(0.0 if value is None else value, shape)

        response, noise = given["element_response"], given["noise_covariance"]
        estimates_noise = isinstance(noise, str)
        if isinstance(noise, str) or noise is None or np.array_equal(noise, np.eye(n_elements)):
            noise = None
        hardware = cls(
            gain_stds=spread("element_gain_std", n_elements),
            phase_stds=spread("element_phase_std_rad", n_elements),
            response=np.ones(n_elements, complex) if response is None else response,
            rotation_stds=spread("array_rotation_std_rad", 3),
            coupling_std=float(spread("coupling_std")),
            noise_covariance=noise,
            estimates_noise=estimates_noise,
        )
        return None if hardware._is_perfect else hardware

    @property
    def has_element_errors(self) -> bool:
        """Whether gains or phases of elements are uncertain."""
        return bool(np.any(self.gain_stds > 0) or np.any(self.phase_stds > 0))

    @property
    def has_rotation(self) -> bool:
        """Whether the orientation of the array is uncertain."""
        return bool(np.any(self.rotation_stds > 0))

    @property
    def has_array_errors(self) -> bool:
        """Whether the array is other than drawn: its elements, how it stands, or coupling."""
        uncertain = self.has_element_errors or self.has_rotation or self.coupling_std > 0
        return bool(uncertain or np.any(self.response != 1))

    @property
    def _is_perfect(self) -> bool:
        """Whether nothing differs from what an observation without these fields says."""
        coloured = self.estimates_noise or self.noise_covariance is not None
        return not (self.has_array_errors or coloured)


def checked_hardware(given: Mapping[str, Any], array: AntennaArray) -> dict[str, NDArray[Any] | str]:
    """Return those of ``HARDWARE_FIELDS`` that are given, as arrays of one of their shapes.

    ``noise_covariance`` may be ``"estimate"``.

    Raises
    ------
    TypeError, ValueError
        Naming the field, what came and what is allowed: negative deviations, responses of zero, coupling in
        an array without a grid, covariances that are not Hermitian, positive definite and of trace M.

    Warns
    -----
    ImplausibleValueWarning
        For deviations as in degrees, decibels or percent.
    """
    n_elements = array.n_elements
    values: dict[str, NDArray[Any] | str] = {}
    for name, shapes in _DEVIATIONS.items():
        if given[name] is not None:
            values[name] = _checked_deviation(name, given[name], shapes, n_elements)
    if np.any(values.get("coupling_std", 0.0)) and not isinstance(array, UniformPlanarArray):
        raise ValueError(
            "coupling_std is of neighbours in the grid of a UniformPlanarArray, got "
            f"{values['coupling_std']} for {type(array).__name__}"
        )
    if given["element_response"] is not None:
        values["element_response"] = _checked_response(given["element_response"], n_elements)
    if given["noise_covariance"] is not None:
        values["noise_covariance"] = _checked_covariance(given["noise_covariance"], n_elements)
    warn_of_implausible_hardware(values)
    return values


def _checked_deviation(
    name: str, given: Any, shapes: tuple[tuple[str | int, ...], ...], n_elements: int
) -> RealArray:
    value = as_array(name, given, float)
    allowed = [tuple(n_elements if axis == "M" else int(axis) for axis in shape) for shape in shapes]
    if value.shape not in allowed:
        meant = " or ".join(f"({shape[0]},)" if shape else "scalar" for shape in shapes)
        where = f" with M = {n_elements}" if ("M",) in shapes else ""
        raise ValueError(f"{name} must be {meant}{where}, got shape {value.shape}")
    check_finite(name, value)
    check_non_negative(name, value)
    return value


def _checked_response(given: Any, n_elements: int) -> ComplexArray:
    response = as_array("element_response", given, complex)
    check_shape("element_response", response, (n_elements,), "(M,)")
    check_finite("element_response", response)
    silent = np.flatnonzero(response == 0)
    if silent.size:
        raise ValueError(
            f"element_response must not be zero, got zeros at elements {silent.tolist()}; dead elements are "
            "False in element_mask"
        )
    return response


def _checked_covariance(given: Any, n_elements: int) -> ComplexArray | str:
    name, given = "noise_covariance", as_scalar(given)
    if isinstance(given, str):
        if given != ESTIMATED_NOISE:
            raise ValueError(f"{name} must be an (M, M) matrix or {ESTIMATED_NOISE!r}, got {given!r}")
        return given
    covariance = as_array(name, given, complex)
    check_shape(name, covariance, (n_elements, n_elements), "(M, M)")
    check_finite(name, covariance)
    asymmetry = float(np.max(np.abs(covariance - covariance.conj().T)))
    if asymmetry > _ROUNDING * float(np.max(np.abs(covariance))):
        raise ValueError(f"{name} must be Hermitian, got entries that differ by {asymmetry:.3g}")
    covariance = (covariance + covariance.conj().T) / 2
    trace = float(np.trace(covariance).real)
    if abs(trace - n_elements) > _ROUNDING * n_elements:
        raise ValueError(
            f"{name} must have the trace M = {n_elements}, got {trace:.6g}: it is the shape alone, the mean "
            "power of the noise is noise_variance"
        )
    smallest = float(np.linalg.eigvalsh(covariance)[0])
    if smallest <= np.finfo(float).eps * n_elements:
        raise ValueError(f"{name} must be positive definite, got a smallest eigenvalue of {smallest:.3g}")
    return covariance
