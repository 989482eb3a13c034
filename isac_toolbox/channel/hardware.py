"""What is known beforehand of the receiver's hardware: errors of its array, colour of its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_array, as_scalar, check_deviations, check_finite, check_shape
from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.front_end import mirrored_subcarriers
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.channel.plausible_priors import warn_of_implausible_hardware

__all__ = ["ESTIMATED_NOISE", "HARDWARE_FIELDS", "Hardware", "checked_hardware"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

#: What ``noise_covariance`` may be instead of a matrix: its shape is to be found from the samples.
ESTIMATED_NOISE = "estimate"
#: Deviations, each with the shapes that it may have: M elements, P panels, K users.
_DEVIATIONS: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "element_gain_std": ((), ("M",)),
    "element_phase_std_rad": ((), ("M",)),
    "array_rotation_std_rad": ((), (3,)),
    "coupling_std": ((),),
    "panel_phase_std_rad": ((), ("P",)),
    "iq_image_std": ((), ("M",)),
    "user_iq_image_std": ((), ("K",)),
}
#: Fields of an observation that describe the receiver.
HARDWARE_FIELDS = (*_DEVIATIONS, "element_response", "element_covariance", "noise_covariance")
# Relative rounding that a Hermitian matrix and its trace may have.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Hardware:
    """Priors of the errors of a receive array, for every element, and the shape of its noise.

    Element ``m`` multiplies what its antenna hears by ``response[m] exp(alpha_m + j beta_m)``.

    Attributes
    ----------
    gain_stds, phase_stds : ndarray, shape (M,)
        Deviations of the relative gains ``alpha`` and of the phases ``beta`` in radians, of mean zero, that
        are independent from element to element.
    joint_covariance : ndarray, shape (2 M, 2 M), or None
        What comes on top: covariance of all ``alpha``, then all ``beta``, from a calibration or of panels
        with phases of their own; None without.
    image_stds : ndarray, shape (M,)
        Deviations ``sqrt(E|mu|^2)`` of the images of mirrored subcarriers that the elements' mixers add.
    user_image_stds : ndarray, shape (K,) or (1,)
        The same of the users.
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
    joint_covariance: RealArray | None = None
    image_stds: RealArray = field(default_factory=lambda: np.zeros(1))
    user_image_stds: RealArray = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(cls, given: Mapping[str, Any], array: AntennaArray) -> Hardware | None:
        """Return what checked fields say; None where the receiver is perfect: nothing, or nothing but zeros.

        Responses of one and a white covariance count as nothing.

        Parameters
        ----------
        given : mapping of str to ndarray, str or None
            ``HARDWARE_FIELDS``, as ``checked_hardware`` returns them.
        array : AntennaArray

        Returns
        -------
        Hardware or None
        """
        n_elements = array.n_elements

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
            joint_covariance=_joint_covariance(given, array),
            image_stds=spread("iq_image_std", n_elements),
            user_image_stds=np.atleast_1d(spread("user_iq_image_std", *np.shape(given["user_iq_image_std"]))),
        )
        return None if hardware._is_perfect else hardware

    @property
    def has_element_errors(self) -> bool:
        """Whether gains or phases of elements are uncertain."""
        independent = np.any(self.gain_stds > 0) or np.any(self.phase_stds > 0)
        return bool(independent or self.joint_covariance is not None)

    @property
    def element_covariance(self) -> RealArray:
        """Covariance of all gains, then all phases, of the elements, shape (2 M, 2 M)."""
        independent = np.diag(np.concatenate([self.gain_stds, self.phase_stds]) ** 2)
        return independent if self.joint_covariance is None else independent + self.joint_covariance

    @property
    def has_images(self) -> bool:
        """Whether mixers of the receiver or of users may add images."""
        return bool(np.any(self.image_stds > 0) or np.any(self.user_image_stds > 0))

    @property
    def has_rotation(self) -> bool:
        """Whether the orientation of the array is uncertain."""
        return bool(np.any(self.rotation_stds > 0))

    @property
    def _is_perfect(self) -> bool:
        """Whether nothing differs from what an observation without these fields says."""
        uncertain = self.has_element_errors or self.has_rotation or self.coupling_std > 0
        uncertain = uncertain or self.has_images
        coloured = self.estimates_noise or self.noise_covariance is not None
        return not (uncertain or coloured or np.any(self.response != 1))


def _joint_covariance(given: Mapping[str, Any], array: AntennaArray) -> RealArray | None:
    """What gains and phases of several elements have in common, (2 M, 2 M); None without any."""
    covariance, panels = given["element_covariance"], given["panel_phase_std_rad"]
    if panels is not None and np.any(panels):
        assert isinstance(array, PanelArray)
        belongs = array.panel_of_element[:, None] == np.arange(len(array.panels))
        common = np.zeros((2 * array.n_elements, 2 * array.n_elements))
        common[array.n_elements :, array.n_elements :] = (belongs * panels**2) @ belongs.T
        covariance = common if covariance is None else covariance + common
    return covariance if covariance is not None and np.any(covariance) else None


def checked_hardware(
    given: Mapping[str, Any], array: AntennaArray, n_users: int, frequencies_hz: RealArray
) -> dict[str, NDArray[Any] | str]:
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
    if given["panel_phase_std_rad"] is not None and not isinstance(array, PanelArray):
        raise ValueError(
            f"panel_phase_std_rad is of the panels of a PanelArray, got {given['panel_phase_std_rad']} for "
            f"{type(array).__name__}"
        )
    n_panels = len(array.panels) if isinstance(array, PanelArray) else 1
    sizes = {"M": n_elements, "P": n_panels, "K": n_users}
    for name, shapes in _DEVIATIONS.items():
        if given[name] is not None:
            values[name] = _checked_deviation(name, given[name], shapes, sizes)
    if np.any(values.get("coupling_std", 0.0)) and not isinstance(array, UniformPlanarArray):
        raise ValueError(
            "coupling_std is of neighbours in the grid of a UniformPlanarArray, got "
            f"{values['coupling_std']} for {type(array).__name__}"
        )
    images = [name for name in ("iq_image_std", "user_iq_image_std") if np.any(values.get(name, 0.0))]
    if images and np.all(mirrored_subcarriers(frequencies_hz) < 0):
        raise ValueError(
            f"{images[0]} needs subcarriers at opposite frequencies, and subcarrier_frequencies_hz has none: "
            "what images fall on is not received"
        )
    if given["element_covariance"] is not None:
        values["element_covariance"] = _checked_joint(given["element_covariance"], n_elements)
    if given["element_response"] is not None:
        values["element_response"] = _checked_response(given["element_response"], n_elements)
    if given["noise_covariance"] is not None:
        values["noise_covariance"] = _checked_covariance(given["noise_covariance"], n_elements)
    warn_of_implausible_hardware(values)
    return values


def _checked_deviation(
    name: str, given: Any, shapes: tuple[tuple[str | int, ...], ...], sizes: Mapping[str, int]
) -> RealArray:
    value = as_array(name, given, float)
    allowed = [tuple(sizes.get(str(axis), axis) for axis in shape) for shape in shapes]
    if value.shape not in allowed:
        meant = " or ".join(f"({shape[0]},)" if shape else "scalar" for shape in shapes)
        named = [axis for shape in shapes for axis in shape if axis in sizes]
        where = "".join(f" with {axis} = {sizes[str(axis)]}" for axis in named)
        raise ValueError(f"{name} must be {meant}{where}, got shape {value.shape}")
    check_finite(name, value)
    check_deviations(name, value)
    return value


def _checked_joint(given: Any, n_elements: int) -> RealArray:
    name = "element_covariance"
    covariance = as_array(name, given, float)
    check_shape(name, covariance, (2 * n_elements, 2 * n_elements), "(2 M, 2 M)")
    check_finite(name, covariance)
    largest = float(np.max(np.abs(covariance), initial=0.0))
    if np.max(np.abs(covariance - covariance.T), initial=0.0) > _ROUNDING * largest:
        raise ValueError(f"{name} must be symmetric, got entries that differ from their mirror images")
    covariance = (covariance + covariance.T) / 2
    smallest = float(np.linalg.eigvalsh(covariance)[0])
    if smallest < -_ROUNDING * largest:
        raise ValueError(f"{name} must be positive semi-definite, got an eigenvalue of {smallest:.3g}")
    return covariance


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
