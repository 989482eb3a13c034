"""What an estimator returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._files import naming
from isac_toolbox.channel.evolution import ChannelEvolution, check_symbol_indices
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result_files import read_result, write_result
from isac_toolbox.estimators.result_parts import (
    Ambiguity,
    Candidates,
    ElementInformation,
    Misfit,
    MisfitAxis,
    SceneInformation,
)
from isac_toolbox.inference.turbo import History

__all__ = [
    "Ambiguity",
    "Candidates",
    "ElementInformation",
    "EstimationResult",
    "Misfit",
    "MisfitAxis",
    "SceneInformation",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class EstimationResult:
    """Scene, channel and data recovered from one block.

    Attributes
    ----------
    estimator : str
        Name of the method.
    channel : ndarray of complex, shape (K, N, M)
        Posterior mean.
    channel_variance : ndarray, shape (K, N, M)
        Posterior variance, uncertainty of gains, positions and clocks included.
    scatterer_positions_m : ndarray, shape (S_hat, 3)
        Points with probability of at least one half.
    scatterer_probability : ndarray, shape (S_hat,)
    scatterer_covariance_m2 : ndarray, shape (S_hat, 3, 3)
    visibility_probability : ndarray, shape (K, S_hat)
    candidates : Candidates
    line_of_sight_probability : ndarray, shape (K,)
        One half where it was not asked for.
    unlocated_paths : UnlocatedPaths
        Paths that no single-bounce point in the region explains; all paths of an observation without places.
    user_positions_m : ndarray, shape (K, 3)
        Of an observation without users' positions (0, 3), and their covariance (0, 3, 3).
    user_position_covariance_m2 : ndarray, shape (K, 3, 3)
    time_offsets_s, time_offset_std_s : ndarray, shape (K,)
        Of an observation without places zero, and the stated deviation: delays then include the clock.
    noise_variance : float
        Per sample.
    symbol_mean : ndarray of complex, shape (K, N, T)
        Posterior mean; the pilots at pilot positions.
    symbol_decision : ndarray of int, shape (K, N, T)
        Constellation index, -1 at pilots.
    llr : ndarray, shape (K, N, T, bits)
        ``ln P(bit = 0) / P(bit = 1)``, most significant bit first, 0 at pilots.
    history : History
        Per iteration: objective, noise variance, active paths, seconds.
    converged : bool
    n_iter : int
    status : str
        Why it stopped; where it converged, ``"misfit"`` if noise does not explain what is left of the
        samples, else ``"ambiguous"`` if ``ambiguities`` has entries; ``"fell back to least squares"`` where
        no scene explained the samples as well.
    warnings : tuple of str
        What the block contradicts or does not tell, what was done about it, and the remedy.
    ambiguities : tuple of Ambiguity
        What has more than one likely value.
    scatterer_extent_m2 : ndarray, shape (S_hat, 3, 3)
        Covariance of the body that a scatterer is, beside that of its centre; zero for a point.
    diffuse_power : ndarray, shape (K,)
        Mean power of a channel entry that no path but the diffuse part explains; zero where there is none.
    diffuse_profile : ndarray, shape (K, G)
        The same from every bin of delay, or from every cluster around a path (zero for those of other users);
        no bins where there is no diffuse part.
    diffuse_delays_s : ndarray, shape (G,)
        Delays of these bins, clock offsets included.
    reference_time_s : float, optional
        When ``channel``, positions and delays hold: the mean of the symbols' times. None, like all that
        follows, for a block that is taken as static.
    frequency_offsets_hz, frequency_offset_std_hz : ndarray, shape (K,), optional
    user_velocities_m_s : ndarray, shape (K, 3), optional
    user_velocity_covariance_m2_s2 : ndarray, shape (K, 3, 3), optional
    scatterer_velocities_m_s : ndarray, shape (S_hat, 3), optional
    scatterer_velocity_covariance_m2_s2 : ndarray, shape (S_hat, 3, 3), optional
    moving_probability : ndarray, shape (S_hat,), optional
        That a scatterer moves at all.
    symbol_phase_rad : ndarray, shape (T,), optional
        Phase of the station's oscillator over the symbols, of mean zero.
    user_symbol_phase_rad : ndarray, shape (K, T), optional
        Phases of the users' oscillators, each of mean zero.
    evolution : ChannelEvolution, optional
        The channel over the symbols, from which :meth:`channel_at` reads.
    element_response : ndarray of complex, shape (M,), optional
        Of every element, where the observation says that it is not known; None otherwise. Its common phase
        and gain, and slopes of the phases over the array, are in the paths and places.
    element_response_std : ndarray, shape (M,), optional
    element_information : ElementInformation, optional
        What the samples alone say of the elements, from which
        :func:`~isac_toolbox.estimators.calibrate` learns; from ``EMTurboBiSVBI``, where the observation says
        that they are not known.
    coupling_matrix : ndarray of complex, shape (M, M), optional
        What elements hear of each other, one on the diagonal, where the observation says that they do.
    coupling_matrix_std : ndarray, shape (M, M), optional
    iq_images, user_iq_images : ndarray of complex, shape (M,) and (K,), optional
        What elements, and users, add of the opposite subcarrier's conjugate, where the observation says that
        they may; the channel is that of the samples without.
    iq_image_std, user_iq_image_std : ndarray, shape (M,) and (K,), optional
    silent_elements : ndarray of int, shape (D,)
        Elements that were found to carry no signal and were left out; their channel is zero.
    noise_covariance : ndarray of complex, shape (M, M), optional
        Shape of the noise over the elements, interferers included, of trace M over those in use; noise of the
        samples is ``noise_variance`` times it. None where noise was taken as white.
    interferer_directions : ndarray, shape (I, 3), optional
        Unit vectors to where plane waves in the noise come from, world frame, the strongest first.
    interferer_power : ndarray, shape (I,), optional
        Power of each in a sample.
    misfit : Misfit, optional
        How far what is left of the samples is from noise; of the scene, also where least squares took over.
        None from methods without a model to judge: ``MusicSCVBI`` and ``OMP``, whose
        points stay on a grid, ``LeastSquares`` and ``GenieLMMSE``.
    information : SceneInformation, optional
        What the samples say of scatterers, users, clocks and motion together; from ``EMTurboBiSVBI``, where
        places are given, there are no priors of hardware and a scene was found.
    """

    estimator: str
    channel: ComplexArray
    channel_variance: RealArray
    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    scatterer_covariance_m2: RealArray
    visibility_probability: RealArray
    candidates: Candidates
    line_of_sight_probability: RealArray
    unlocated_paths: UnlocatedPaths
    user_positions_m: RealArray
    user_position_covariance_m2: RealArray
    time_offsets_s: RealArray
    time_offset_std_s: RealArray
    noise_variance: float
    symbol_mean: ComplexArray
    symbol_decision: NDArray[np.int64]
    llr: RealArray
    history: History
    converged: bool
    n_iter: int
    status: str
    warnings: tuple[str, ...] = ()
    ambiguities: tuple[Ambiguity, ...] = ()
    scatterer_extent_m2: RealArray = field(default_factory=lambda: np.zeros((0, 3, 3)))
    diffuse_power: RealArray = field(default_factory=lambda: np.zeros(0))
    diffuse_profile: RealArray = field(default_factory=lambda: np.zeros((0, 0)))
    diffuse_delays_s: RealArray = field(default_factory=lambda: np.zeros(0))
    reference_time_s: float | None = None
    frequency_offsets_hz: RealArray | None = None
    frequency_offset_std_hz: RealArray | None = None
    user_velocities_m_s: RealArray | None = None
    user_velocity_covariance_m2_s2: RealArray | None = None
    scatterer_velocities_m_s: RealArray | None = None
    scatterer_velocity_covariance_m2_s2: RealArray | None = None
    moving_probability: RealArray | None = None
    symbol_phase_rad: RealArray | None = None
    user_symbol_phase_rad: RealArray | None = None
    evolution: ChannelEvolution | None = None
    element_response: ComplexArray | None = None
    element_response_std: RealArray | None = None
    element_information: ElementInformation | None = None
    coupling_matrix: ComplexArray | None = None
    coupling_matrix_std: RealArray | None = None
    iq_images: ComplexArray | None = None
    iq_image_std: RealArray | None = None
    user_iq_images: ComplexArray | None = None
    user_iq_image_std: RealArray | None = None
    silent_elements: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    noise_covariance: ComplexArray | None = None
    interferer_directions: RealArray | None = None
    interferer_power: RealArray | None = None
    misfit: Misfit | None = None
    information: SceneInformation | None = None

    def __post_init__(self) -> None:
        if not len(self.diffuse_power):
            object.__setattr__(self, "diffuse_power", np.zeros(len(self.channel)))
            object.__setattr__(self, "diffuse_profile", np.zeros((len(self.channel), 0)))

    def channel_at(self, symbols: Sequence[int]) -> ComplexArray:
        """Return the channel at OFDM symbols, motion and phases included, shape (K, N, M, len(symbols)).

        Raises
        ------
        TypeError, ValueError
            If they are no indices of symbols.
        """
        if self.evolution is not None:
            return self.evolution.at(symbols)
        index = check_symbol_indices(symbols, self.symbol_mean.shape[2])
        return np.repeat(self.channel[..., None], index.size, axis=3)

    def save(self, path: str | Path) -> Path:
        """Write the result as an npz file and return its path.

        One key per attribute that is not None; ``candidates``, ``unlocated_paths``, ``evolution``,
        ``information`` and ``element_information`` as ``candidates.FIELD`` and so on, the history as
        ``history`` of shape (iterations, 4). Ambiguities have one row of ``ambiguities`` per alternative:
        number of the ambiguity, kind (0 clock, 1 scatterer, 2 path), index, weight, and the value in three
        columns (a clock's in the first, the others NaN).
        ``misfit`` has one row (excess in dB, p-value) for each of delay, direction, time and element, and
        ``misfit_parts`` their parts.
        """
        return write_result(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> EstimationResult:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an npz file, lacks keys, holds pickled objects or shapes that do not fit each other.
        """
        with naming(path):
            return cls(**read_result(path, [f.name for f in fields(cls)]))
