"""The responses of an array's elements as a calibration found them, with what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isac_toolbox import _npz
from isac_toolbox._validation import as_array, check_finite, check_flag, check_integer, check_shape
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["ElementResponse"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

_KIND = "element-response"


@dataclass(frozen=True, eq=False)
class ElementResponse:
    """Responses of the M elements of an array: mean and covariance, and which elements work.

    An element multiplies what its antenna hears by ``mean exp(alpha + j beta)``, with small errors ``alpha``
    and ``beta`` of mean zero.

    Parameters
    ----------
    mean : array_like of complex, shape (M,)
    covariance : array_like, shape (2 M, 2 M)
        Of all ``alpha``, then all ``beta``. A gain and a phase that all elements have in common, and slopes
        of the phases over the array, are hardly seen by blocks, and stay as uncertain as they were.
    working : array_like of bool, shape (M,), optional
        False for elements that carry no signal. All work if not given.
    n_blocks : int
        Blocks that it was learned from.
    left_out : sequence of str
        What was not learned from, and why.

    Raises
    ------
    TypeError, ValueError
        For wrong shapes, values that are not finite, or responses of zero.

    Examples
    --------
    >>> import numpy as np
    >>> import isac_toolbox as isac
    >>> known = isac.ElementResponse(np.ones(4), 1e-4 * np.eye(8))
    >>> known.phase_std_rad.tolist()
    [0.01, 0.01, 0.01, 0.01]
    """

    mean: ComplexArray
    covariance: RealArray
    working: BoolArray = None  # type: ignore[assignment]
    n_blocks: int = 0
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        mean = as_array("mean", self.mean, complex)
        check_shape("mean", mean, (None,), "(M,)")
        check_finite("mean", mean)
        if not np.all(mean):
            raise ValueError("mean must not be zero; elements that carry no signal are False in working")
        covariance = as_array("covariance", self.covariance, float)
        check_shape("covariance", covariance, (2 * mean.size, 2 * mean.size), "(2 M, 2 M)")
        check_finite("covariance", covariance)
        working = np.ones(mean.size, bool) if self.working is None else np.asarray(self.working)
        if working.dtype != bool:
            raise TypeError(f"working must be boolean, got dtype {working.dtype}")
        check_shape("working", working, (mean.size,), "(M,)")
        check_integer("n_blocks", self.n_blocks, 0)
        for name, value in (("mean", mean), ("covariance", covariance), ("working", working)):
            frozen = np.array(value)
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)
        object.__setattr__(self, "left_out", tuple(str(text) for text in self.left_out))

    @property
    def gain_std(self) -> RealArray:
        """Deviations of the relative gains, shape (M,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance)[: self.mean.size], 0.0))

    @property
    def phase_std_rad(self) -> RealArray:
        """Deviations of the phases, shape (M,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance)[self.mean.size :], 0.0))

    @property
    def std(self) -> RealArray:
        """Deviations of the complex responses, shape (M,)."""
        return np.asarray(np.abs(self.mean) * np.hypot(self.gain_std, self.phase_std_rad))

    def applied(self, observation: UplinkObservation, *, known: bool = False) -> UplinkObservation:
        """Return an observation of the same array with these responses as its prior.

        Parameters
        ----------
        observation : UplinkObservation
            What it says of its elements' gains and phases is replaced; the other fields stay.
        known : bool
            Take the mean for exact.

        Returns
        -------
        UplinkObservation

        Raises
        ------
        TypeError, ValueError
            If it is no observation, or of an array with another number of elements.
        """
        if not isinstance(observation, UplinkObservation):
            raise TypeError(f"observation must be an UplinkObservation, got {type(observation).__name__}")
        n_elements = observation.array.n_elements
        if n_elements != self.mean.size:
            raise ValueError(
                f"observation must have the {self.mean.size} elements of these responses, got {n_elements}"
            )
        mask = observation.element_mask
        if not self.working.all():
            mask = self.working if mask is None else mask & self.working
        return replace(
            observation,
            element_mask=mask,
            element_response=self.mean,
            element_covariance=None if check_flag("known", known) else self.covariance,
            element_gain_std=None,
            element_phase_std_rad=None,
            panel_phase_std_rad=None,
        )

    def save(self, path: str | Path) -> Path:
        """Write it as an npz file, one key per attribute, without pickled objects, and return its path."""
        return _npz.write(
            path,
            _KIND,
            {
                "mean": self.mean,
                "covariance": self.covariance,
                "working": self.working,
                "n_blocks": self.n_blocks,
                "left_out": np.array(self.left_out, dtype=str),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> ElementResponse:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an npz file, lacks keys or holds pickled objects.
        """
        names = ("mean", "covariance", "working", "n_blocks", "left_out")
        data = _npz.read(path, _KIND, names)
        texts = tuple(str(text) for text in data["left_out"])
        return cls(data["mean"], data["covariance"], data["working"], int(data["n_blocks"]), texts)
