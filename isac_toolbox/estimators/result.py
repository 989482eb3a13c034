"""What an estimator returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox import _npz
from isac_toolbox._files import naming
from isac_toolbox.channel.evolution import ChannelEvolution, check_symbol_indices
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result_shapes import check_result_shapes
from isac_toolbox.inference.turbo import History, IterationRecord

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

_KIND = "estimation-result"

# Guard: probability of a residual as far from noise as that seen, below which noise does not explain it.
_IMPROBABLE = 1e-6
# Guard: excess that matters, in dB; less costs an estimate little.
_RELEVANT_DB = 1.0


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every point that the posterior judged, whatever its probability: C of them.

    Points merged into another one are that one's; points dropped on the way keep their last probability.

    Attributes
    ----------
    scatterer_positions_m : ndarray, shape (C, 3)
    scatterer_probability : ndarray, shape (C,)
    visibility_probability : ndarray, shape (K, C)
    """

    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    visibility_probability: RealArray


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """A quantity of which the block allows more than one value: A of them.

    Attributes
    ----------
    kind : {"clock", "scatterer", "path"}
        What is ambiguous: the clock offset of a user, in seconds; the place of a scatterer, in metres; or the
        place of the scatterer of an unlocated path, if it is a single bounce in the region.
    index : int
        Which user, which row of ``scatterer_positions_m``, or which unlocated path.
    alternatives : ndarray, shape (A, D)
        The values, D = 1 for a clock and 3 for a place; for clocks and scatterers the first is the one
        reported.
    weights : ndarray, shape (A,)
        Their posterior probabilities, of sum one.
    """

    kind: str
    index: int
    alternatives: RealArray
    weights: RealArray

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, first: int = 0) -> str:
        """Return values and weights as a line of text; users and scatterers are counted from ``first``."""
        of = {"clock": "clock of user", "scatterer": "place of scatterer", "path": "place of unlocated path"}
        values = (self._in_words(*pair) for pair in zip(self.alternatives, self.weights, strict=True))
        return f"{of[self.kind]} {self.index + first}: {', '.join(values)}"

    def _in_words(self, value: RealArray, weight: float) -> str:
        if self.kind == "clock":
            return f"{value[0] * 1e9:.1f} ns ({weight:.2f})"
        return f"({', '.join(f'{x:.2f}' for x in value)}) m ({weight:.2f})"


@dataclass(frozen=True)
class MisfitAxis:
    """How far a residual is from noise along one axis.

    Attributes
    ----------
    part : str
        What is furthest from noise: ``"echoes"`` (delay), ``"colour"`` (direction), ``"rotation"`` or
        ``"power"`` (time), ``"response"`` or ``"power"`` (element).
    excess_db : float
        Power of that part over what noise leaves there on average; zero where the block cannot tell.
    p_value : float
        Probability of noise that is at least as uneven along this axis; one where the block cannot tell.
    """

    part: str
    excess_db: float
    p_value: float

    @property
    def fails(self) -> bool:
        """Whether noise does not explain it."""
        return self.p_value < _IMPROBABLE and self.excess_db > _RELEVANT_DB


@dataclass(frozen=True)
class Misfit:
    """What an estimate leaves of the samples, against noise: over delay, direction, symbols and elements.

    Attributes
    ----------
    delay, direction, time, element : MisfitAxis
    """

    delay: MisfitAxis
    direction: MisfitAxis
    time: MisfitAxis
    element: MisfitAxis

    @property
    def axes(self) -> dict[str, MisfitAxis]:
        """All four by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the axes that noise does not explain, that with the largest excess first."""
        failing = [name for name, axis in self.axes.items() if axis.fails]
        return tuple(sorted(failing, key=lambda name: -getattr(self, name).excess_db))


@dataclass(frozen=True, eq=False)
class SceneInformation:
    """What the samples of a block alone say of its scene, all priors left out: a Gaussian in all unknowns.

    Up to a constant the log likelihood of a vector ``x`` of P entries is ``b^T x - x^T J x / 2``. Of S
    scatterers and K users ``x`` holds positions of scatterers (3 S) and users (3 K) and clock offsets as
    lengths ``c t`` (K), in metres; of a block that moves also frequency offsets in Hz (K) and velocities of
    users (3 K) and scatterers (3 S) in m/s.

    Attributes
    ----------
    matrix : ndarray, shape (P, P)
        ``J``, positive semi-definite; singular where the samples leave something open.
    vector : ndarray, shape (P,)
        ``b``.
    n_scatterers, n_users : int

    Notes
    -----
    Blocks are fused by adding what each says to what was known before; docs/theory.md, section 11.2.
    """

    matrix: RealArray
    vector: RealArray
    n_scatterers: int
    n_users: int

    @property
    def moves(self) -> bool:
        """Whether it speaks of motion."""
        return self.vector.size > 3 * self.n_scatterers + 4 * self.n_users


@dataclass(frozen=True, eq=False)
class ElementInformation:
    """What the samples of a block alone say of the responses of M elements: a Gaussian.

    Up to a constant the log likelihood of the relative gains and phases ``x`` (2 M,), gains first, on top of
    the stated response is ``b^T x - x^T J x / 2``.

    Attributes
    ----------
    matrix : ndarray, shape (2 M, 2 M)
        ``J``, positive semi-definite.
    vector : ndarray, shape (2 M,)
        ``b``.
    """

    matrix: RealArray
    vector: RealArray


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
        What the samples alone say of the elements, from which :func:`isac_toolbox.calibrate` learns; from
        ``EMTurboBiSVBI``, where the observation says that they are not known.
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
        stored: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, _NESTED):
                parts = {f"{name}.{f.name}": getattr(value, f.name) for f in fields(value)}
                stored.update({key: part for key, part in parts.items() if part is not None})
            elif isinstance(value, History):
                rows = [[getattr(r, f.name) for f in fields(IterationRecord)] for r in value]
                stored[name] = np.array(rows, dtype=float).reshape(-1, len(fields(IterationRecord)))
            elif name == "ambiguities":
                stored[name] = _ambiguity_rows(value)
            elif name == "misfit":
                stored.update(_misfit_columns(value))
            elif name == "warnings":
                stored[name] = np.array(value, dtype=str)
            else:
                stored[name] = value
        return _npz.write(path, _KIND, stored)

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
            return cls(**_stored_fields(path))


def _stored_fields(path: str | Path) -> dict[str, Any]:
    """Return the fields of a result from its file."""
    nested: dict[str, Any] = {"candidates": Candidates, "unlocated_paths": UnlocatedPaths}
    plain = [f.name for f in fields(EstimationResult) if f.name not in (*nested, *_OPTIONAL)]
    keys = [f"{name}.{f.name}" for name, kind in nested.items() for f in fields(kind)]
    data = _npz.read(path, _KIND, plain + [key for key in keys if key not in _OPTIONAL])
    check_result_shapes(path, data)
    values: dict[str, Any] = {name: data[name] for name in plain}
    for name, kind in nested.items():
        values[name] = kind(**{f.name: data.get(f"{name}.{f.name}") for f in fields(kind)})
    for name, convert in _SCALARS.items():
        values[name] = convert(values[name].item())
    history = History()
    for objective, noise_variance, n_active, seconds in values["history"]:
        history.append(IterationRecord(objective, noise_variance, int(n_active), seconds))
    values["history"] = history
    values["warnings"] = tuple(str(text) for text in data.get("warnings", ()))
    values["ambiguities"] = _ambiguities(data.get("ambiguities", np.zeros((0, 7))))
    no_extent = np.zeros((len(values["scatterer_positions_m"]), 3, 3))
    values["scatterer_extent_m2"] = data.get("scatterer_extent_m2", no_extent)
    values.update({name: data[name] for name in (*_DIFFUSE, *_MOTION) if name in data})
    if "reference_time_s" in data:
        values["reference_time_s"] = float(data["reference_time_s"])
    if "evolution.parts" in data:
        _npz.require(path, _KIND, data, ["evolution.curves"])
        values["evolution"] = ChannelEvolution(data["evolution.parts"], data["evolution.curves"])
    if "information.matrix" in data:
        parts = [f"information.{f.name}" for f in fields(SceneInformation)]
        _npz.require(path, _KIND, data, parts)
        matrix, vector, *counts = (data[key] for key in parts)
        values["information"] = SceneInformation(matrix, vector, *map(int, counts))
    if "element_information.matrix" in data:
        _npz.require(path, _KIND, data, ["element_information.vector"])
        both = (data["element_information.matrix"], data["element_information.vector"])
        values["element_information"] = ElementInformation(*both)
    values["misfit"] = _misfit_of(data.get("misfit_parts", ()), data.get("misfit", ()))
    return values


_NESTED = (Candidates, UnlocatedPaths, ChannelEvolution, SceneInformation, ElementInformation)
_DIFFUSE = ("diffuse_power", "diffuse_profile", "diffuse_delays_s")
_MOTION = (
    "element_response",
    "element_response_std",
    "silent_elements",
    "coupling_matrix",
    "coupling_matrix_std",
    "iq_images",
    "iq_image_std",
    "user_iq_images",
    "user_iq_image_std",
    "noise_covariance",
    "interferer_directions",
    "interferer_power",
    "frequency_offsets_hz",
    "frequency_offset_std_hz",
    "user_velocities_m_s",
    "user_velocity_covariance_m2_s2",
    "scatterer_velocities_m_s",
    "scatterer_velocity_covariance_m2_s2",
    "moving_probability",
    "symbol_phase_rad",
    "user_symbol_phase_rad",
)
#: Fields that files of earlier versions do not have, and those that a static block leaves out.
_OPTIONAL = (
    "warnings",
    "ambiguities",
    "scatterer_extent_m2",
    *_DIFFUSE,
    *_MOTION,
    "reference_time_s",
    "evolution",
    "unlocated_paths.doppler_hz",
    "misfit",
    "information",
    "element_information",
)

_AMBIGUITY_KINDS = ("clock", "scatterer", "path")


def _ambiguity_rows(ambiguities: tuple[Ambiguity, ...]) -> RealArray:
    """One row (7,) for every alternative of every ambiguity."""
    rows = []
    for number, entry in enumerate(ambiguities):
        for value, weight in zip(entry.alternatives, entry.weights, strict=True):
            padded = np.pad(value, (0, 3 - len(value)), constant_values=np.nan)
            rows.append([number, _AMBIGUITY_KINDS.index(entry.kind), entry.index, weight, *padded])
    return np.array(rows, dtype=float).reshape(-1, 7)


def _ambiguities(rows: RealArray) -> tuple[Ambiguity, ...]:
    """What :func:`_ambiguity_rows` made rows of."""
    found = []
    for number in np.unique(rows[:, 0]):
        own = rows[rows[:, 0] == number]
        kind = _AMBIGUITY_KINDS[int(own[0, 1])]
        width = 1 if kind == "clock" else 3
        found.append(Ambiguity(kind, int(own[0, 2]), own[:, 4 : 4 + width], own[:, 3]))
    return tuple(found)


def _misfit_columns(misfit: Misfit | None) -> dict[str, NDArray[Any]]:
    """Numbers (4, 2) and parts (4,) of the axes; without a misfit no rows."""
    axes = [] if misfit is None else list(misfit.axes.values())
    numbers = np.array([[axis.excess_db, axis.p_value] for axis in axes], dtype=float)
    parts = np.array([axis.part for axis in axes], dtype=str)
    return {"misfit": numbers.reshape(-1, 2), "misfit_parts": parts}


def _misfit_of(parts: Iterable[str], numbers: Iterable[RealArray]) -> Misfit | None:
    """What :func:`_misfit_columns` made columns of."""
    axes = [MisfitAxis(str(part), *map(float, row)) for part, row in zip(parts, numbers, strict=True)]
    if len(axes) not in (0, len(fields(Misfit))):
        raise ValueError(f"misfit must have a row for each of {len(fields(Misfit))} axes, got {len(axes)}")
    return Misfit(*axes) if axes else None


_SCALARS: dict[str, Any] = {
    "estimator": str,
    "noise_variance": float,
    "converged": bool,
    "n_iter": int,
    "status": str,
}
