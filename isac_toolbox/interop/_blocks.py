"""From a block of Sionna's samples to an observation and back, without Sionna itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import check_has, check_positive, check_shape
from isac_toolbox.channel.array import AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import result_from_channel
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.interop.conventions import elements_from_top, nr_constellation, pilots_on_grid

__all__ = ["Beforehand", "Link", "Motion", "Places", "grid_pilots", "to_numpy"]

ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

_GRID = (
    "pilot_pattern",
    "effective_subcarrier_ind",
    "fft_size",
    "num_ofdm_symbols",
    "num_tx",
    "num_streams_per_tx",
    "subcarrier_spacing",
)


class Places(TypedDict, total=False):
    """Where everything is, as an observation takes it; nothing is located where it is not given."""

    station_position_m: ArrayLike | None
    user_positions_m: ArrayLike | None
    user_position_std_m: ArrayLike | None
    time_offset_std_s: ArrayLike | None
    region_m: ArrayLike | None


class Motion(TypedDict, total=False):
    """What may turn within a block, as an observation takes it; a block is static where nothing is given."""

    frequency_offset_std_hz: ArrayLike | None
    user_velocities_m_s: ArrayLike | None
    user_velocity_std_m_s: ArrayLike | None
    scatterer_velocity_std_m_s: ArrayLike | None
    phase_noise_std_rad: ArrayLike | None
    user_phase_noise_std_rad: ArrayLike | None


class Beforehand(Places, Motion, total=False):
    """Both."""


@dataclass(frozen=True, eq=False)
class Link:
    """All that does not change from block to block.

    Attributes
    ----------
    pilots : ndarray of complex, shape (K, N, T)
    known : ndarray of bool, shape (K, N, T)
    subcarriers : ndarray of int, shape (N,)
        Used ones among those of the transform.
    frequencies_hz : ndarray, shape (N,)
    fft_size : int
    array : AntennaArray
    order : ndarray of int, shape (M,)
        Where its elements are among theirs.
    carrier_hz : float
    constellation : ndarray of complex, shape (Q,), optional
        Of the data; pilots alone are used without it.
    beforehand : dict
        Fields of an observation.
    symbol_times_s : ndarray, shape (T,), optional
        Of a block in which something may turn.
    """

    pilots: ComplexArray
    known: NDArray[np.bool_]
    subcarriers: IntArray
    frequencies_hz: NDArray[np.float64]
    fft_size: int
    array: AntennaArray
    order: IntArray
    carrier_hz: float
    constellation: ComplexArray | None
    beforehand: dict[str, Any]
    symbol_times_s: NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        resource_grid: Any,
        array: AntennaArray,
        carrier_hz: float,
        constellation: Any,
        beforehand: Beforehand,
    ) -> Link:
        """Read a resource grid.

        Raises
        ------
        TypeError, ValueError
            For several grids, more than one stream a user, an array that is none, or a prior of another name.
        """
        _check_names(beforehand)
        pilots, known = grid_pilots(resource_grid)
        order = _order(array)
        subcarriers = to_numpy(resource_grid.effective_subcarrier_ind).astype(np.int64)
        size = int(resource_grid.fft_size)
        fields: dict[str, Any] = dict(beforehand)
        moves = any(fields.get(name) is not None for name in Motion.__annotations__)
        fields["bs_position_m"] = fields.pop("station_position_m", None)
        return cls(
            pilots=pilots,
            known=known,
            subcarriers=subcarriers,
            frequencies_hz=(subcarriers - size // 2).astype(float) * float(resource_grid.subcarrier_spacing),
            fft_size=size,
            array=array,
            order=order,
            carrier_hz=check_positive("carrier_hz", carrier_hz),
            constellation=_points(constellation),
            beforehand=fields,
            symbol_times_s=_symbol_times_s(resource_grid) if moves else None,
        )

    @property
    def n_symbols(self) -> int:
        """Number of OFDM symbols T."""
        return int(self.known.shape[2])

    def blocks(self, y: Any, no: Any) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return checked samples [batch, antennas, T, fft_size] and the noise variance of every block.

        Raises
        ------
        ValueError
            For another shape than the grid's, more than one receiver, or another number of antennas.
        """
        samples, noise = to_numpy(y), np.asarray(to_numpy(no), dtype=float)
        shape = f"[batch, 1, M or 2 M, {self.n_symbols}, {self.fft_size}] with M = {self.array.n_elements}"
        if samples.ndim != 5 or samples.shape[3:] != (self.n_symbols, self.fft_size):
            raise ValueError(
                f"y must have the shape of its resource_grid, {shape}, got {samples.shape}; users of unequal "
                "numerologies do not share a grid"
            )
        if samples.shape[1] != 1:
            raise ValueError(
                f"y must come from one receiver with one array, {shape}, got {samples.shape[1]} receivers; "
                "give each an estimator of its own"
            )
        if samples.shape[2] not in (self.array.n_elements, 2 * self.array.n_elements):
            raise ValueError(
                f"y must come from one array of one or two polarisations, {shape}, got {samples.shape[2]} "
                "antennas"
            )
        if noise.ndim > 3 or np.any(noise < 0) or not np.all(np.isfinite(noise)):
            raise ValueError(
                f"no must hold variances for the first axes [batch, 1, antennas], got shape {noise.shape}"
            )
        noise = np.broadcast_to(noise.reshape(noise.shape + (1,) * (3 - noise.ndim)), samples.shape[:3])
        return samples[:, 0], noise.mean(axis=(1, 2))

    def observations(self, samples: NDArray[Any], noise_variance: float) -> Iterator[UplinkObservation]:
        """Yield a block (antennas, T, fft_size) as an observation, or as one for every polarisation."""
        used = samples[..., self.subcarriers].astype(complex)
        for first in range(0, len(used), self.array.n_elements):
            received = used[first + self.order].transpose(2, 0, 1)
            yield self._observation(self.array, received, noise_variance)

    def _observation(
        self, array: AntennaArray, received: ComplexArray, noise_variance: float
    ) -> UplinkObservation:
        pilots, known, sample_mask = self.pilots, self.known, None
        if self.constellation is None:
            pilots, known, received, sample_mask = self._pilots_alone(received)
        return UplinkObservation(
            received=received,
            pilots=pilots,
            pilot_mask=known,
            array=array,
            subcarrier_frequencies_hz=self.frequencies_hz,
            constellation=nr_constellation(2) if self.constellation is None else self.constellation,
            carrier_hz=self.carrier_hz,
            noise_variance=noise_variance or None,
            sample_mask=sample_mask,
            symbol_times_s=self.symbol_times_s,
            **self.beforehand,
        )

    def _pilots_alone(
        self, received: ComplexArray
    ) -> tuple[ComplexArray, NDArray[np.bool_], ComplexArray, NDArray[np.bool_] | None]:
        """The OFDM symbols in which some cell is known of every user, all other cells masked.

        Of a block that moves all symbols stay, so that its channel is known at each of them.
        """
        certain = np.asarray(self.known.all(axis=0))
        symbols = np.flatnonzero(certain.any(axis=0) | (self.symbol_times_s is not None))
        certain = certain[:, symbols]
        pilots = np.where(certain, self.pilots[..., symbols], 0)
        known = np.broadcast_to(certain, pilots.shape)
        return pilots, known, received[..., symbols], None if certain.all() else certain[:, None, :]

    def check_detectable(self, samples: NDArray[Any]) -> None:
        """Refuse two polarisations of blocks that move.

        Raises
        ------
        ValueError
        """
        if self.symbol_times_s is not None and samples.shape[1] > self.array.n_elements:
            raise ValueError(
                "y must come from one polarisation where something may turn, as two are detected together "
                "with a static channel; use SionnaEstimator and a detector of Sionna"
            )

    def detected(
        self, samples: NDArray[Any], noise_variance: float, results: list[EstimationResult]
    ) -> EstimationResult:
        """Return the result of a block; polarisations estimated apart are detected together."""
        if len(results) == 1:
            return results[0]
        both = np.concatenate([first + self.order for first in (0, self.array.n_elements)])
        received = samples[..., self.subcarriers].astype(complex)[both].transpose(2, 0, 1)
        offsets = self.array.element_offsets_m(self.carrier_hz) @ self.array.axes.T
        array = ArbitraryArray.from_metres(
            np.tile(offsets, (2, 1)), self.carrier_hz, self.array.azimuth_rad, self.array.elevation_rad
        )
        return result_from_channel(
            self._observation(array, received, noise_variance),
            np.concatenate([r.channel for r in results], axis=2),
            float(np.mean([r.noise_variance for r in results])),
            channel_variance=np.concatenate([r.channel_variance for r in results], axis=2),
            joint=True,
        )


def to_numpy(value: Any) -> NDArray[Any]:
    """Return a tensor, wherever it lies, or anything like an array as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def grid_pilots(resource_grid: Any) -> tuple[ComplexArray, NDArray[np.bool_]]:
    """Return the pilots of a resource grid and their mask, each (K, N, T).

    Raises
    ------
    TypeError, ValueError
        If it is no grid, or has more than one stream a user.
    """
    _check_grid(resource_grid)
    pattern = resource_grid.pilot_pattern
    return pilots_on_grid(to_numpy(pattern.mask)[:, 0], to_numpy(pattern.pilots)[:, 0])


def _check_grid(resource_grid: Any) -> None:
    if isinstance(resource_grid, (list, tuple)):
        raise TypeError(
            f"resource_grid must be one grid that all users share, got {len(resource_grid)} grids; users of "
            "unequal numerologies need a receiver each"
        )
    check_has("resource_grid", resource_grid, "a Sionna ResourceGrid", _GRID)
    if resource_grid.num_streams_per_tx != 1:
        raise ValueError(
            f"resource_grid must have one stream a user, got num_streams_per_tx = "
            f"{resource_grid.num_streams_per_tx}; make every stream a transmitter of its own"
        )


def _check_names(beforehand: Beforehand) -> None:
    unknown = sorted(set(beforehand) - set(Beforehand.__annotations__))
    if unknown:
        raise TypeError(f"{', '.join(unknown)} must be one of {', '.join(Beforehand.__annotations__)}")


def _symbol_times_s(resource_grid: Any) -> NDArray[np.float64]:
    """Centres of the symbols (T,), from that of the first."""
    check_has("resource_grid", resource_grid, "a Sionna ResourceGrid", ["ofdm_symbol_duration"])
    return np.arange(int(resource_grid.num_ofdm_symbols), dtype=np.float64) * float(
        resource_grid.ofdm_symbol_duration
    )


def _order(array: AntennaArray) -> IntArray:
    """Where our elements are in the simulator's order; an arbitrary array is taken to be in that order."""
    if isinstance(array, UniformPlanarArray):
        return elements_from_top(array)
    if isinstance(array, ArbitraryArray):
        return np.arange(array.n_elements)
    raise TypeError(
        f"array must be a UniformPlanarArray or an ArbitraryArray, got {type(array).__name__}; receivers "
        "other than one array are not modelled"
    )


def _points(constellation: Any) -> ComplexArray | None:
    """Points of a constellation in the order of their labels, from an array or a Sionna Constellation."""
    if constellation is None:
        return None
    points = to_numpy(getattr(constellation, "points", constellation)).astype(complex)
    check_shape("constellation", points, (None,), "(Q,)")
    return np.asarray(points / np.sqrt(np.mean(np.abs(points) ** 2)))
