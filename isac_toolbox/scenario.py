"""Scenarios: everything a simulation needs, validated, and the simulation itself."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from isac_toolbox._validation import check_integer, check_positive
from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.cdl import cdl_environment
from isac_toolbox.channel.clutter import (
    draw_clusters,
    draw_diffuse,
    first_delays_s,
    path_powers,
    spread_scatterers,
)
from isac_toolbox.channel.doppler import (
    Turning,
    draw_diffuse_dopplers,
    fill_dopplers,
    interference_power,
    path_dopplers,
    velocities_of,
)
from isac_toolbox.channel.environment import Environment, draw_environment, load_traced
from isac_toolbox.channel.evolution import check_symbol_indices
from isac_toolbox.channel.front_end import received_samples, sent_symbols
from isac_toolbox.channel.imperfections import (
    draw_imperfections,
    draw_interference,
    hardware_priors,
    interference_covariance,
)
from isac_toolbox.channel.model import moving_channel, multi_user_channel, normalise_power
from isac_toolbox.channel.modulation import qam_constellation
from isac_toolbox.channel.movement import motion_priors, moves, moving_environment, turning_of
from isac_toolbox.channel.numerology import NUMEROLOGIES, check_raster, check_symbols, slot_times_s
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.channel.plausibility import warn_of_interference
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.channel.rays import Rays
from isac_toolbox.channel.succession import UserErrors, next_block
from isac_toolbox.channel.uplink import (
    all_known,
    draw_symbols,
    make_pilots,
    noise_variance_for_snr,
    receive,
    with_pilots_at,
)

__all__ = ["Scenario", "Simulation", "Truth", "scenario_names"]

Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Deviation = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Speed = Deviation | tuple[Deviation, Deviation]
# Independent streams of random numbers of a simulation.
_STREAMS = 21
# A moving tail is a sum of so many, each with a Doppler shift of its own.
_TAIL_PARTS = 16


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation knows and no estimator sees.

    Attributes
    ----------
    channel : ndarray of complex, shape (K, N, M)
        Of a block with motion at the reference time, the mean of the symbols' times.
    scatterer_positions_m : ndarray, shape (S, 3)
        Only scatterers that some user sees; centres, where they are bodies.
    visibility : ndarray of bool, shape (K, S)
    user_positions_m : ndarray, shape (K, 3)
    time_offsets_s : ndarray, shape (K,)
    symbols : ndarray of complex, shape (K, N, T)
    symbol_indices : ndarray of int, shape (K, N, T)
        -1 at pilots.
    noise_variance : float
    line_of_sight : ndarray of bool, shape (K,)
    line_of_sight_gain : ndarray of complex, shape (K,)
    scatterer_gain : ndarray of complex, shape (K, S)
        Of a body the sum over its rays.
    unlocated_paths : UnlocatedPaths
        Paths with more than one bounce.
    environment : Environment
        As drawn or given: before bodies, clusters and a diffuse tail are added.
    rays : UnlocatedPaths
        Rays of clusters, which count neither as scatterers nor as unlocated paths.
    diffuse_channel : ndarray of complex, shape (K, N, M), or None
        What of ``channel`` the line of sight, the scatterers and the unlocated paths do not make up: rays,
        the extent of bodies, a diffuse tail. None without any.
    user_velocities_m_s, scatterer_velocities_m_s : ndarray, shape (K, 3) and (S, 3)
    frequency_offsets_hz : ndarray, shape (K,)
    symbol_phase_rad : ndarray, shape (T,)
        Phase of the station's oscillator over the symbols, of mean zero.
    user_symbol_phase_rad : ndarray, shape (K, T)
        Phases of the users' oscillators, each of mean zero.
    channel_over_time : ndarray of complex, shape (K, N, M, T), or None
        With motion and phases; None for a static block. :meth:`channel_at` has it for any block.
    element_response : ndarray of complex, shape (M,)
        Gain and phase of every element, zero for dead ones. It is part of all channels, and so are the next
        three; gains of paths are those before.
    array_rotation_rad : ndarray, shape (3,)
        Rotation of the array off its stated orientation about its own axes: boresight, horizontal, vertical.
    element_displacements_m : ndarray, shape (M, 3)
        Of the elements off their places, along the same axes.
    coupling_matrix : ndarray of complex, shape (M, M), or None
        What every element hears of the others; None without coupling.
    noise_covariance : ndarray, shape (M, M), or None
        Shape of the noise, of trace M and without interferers; None where it is white.
    interferer_directions : ndarray, shape (I, 3)
        Unit vectors towards the interferers, world frame.
    interference_covariance : ndarray of complex, shape (M, M), or None
        Of all interferers together over the elements, mean over the band; None without any.
    """

    channel: NDArray[np.complex128]
    scatterer_positions_m: NDArray[np.float64]
    visibility: NDArray[np.bool_]
    user_positions_m: NDArray[np.float64]
    time_offsets_s: NDArray[np.float64]
    symbols: NDArray[np.complex128]
    symbol_indices: NDArray[np.int64]
    noise_variance: float
    line_of_sight: NDArray[np.bool_]
    line_of_sight_gain: NDArray[np.complex128]
    scatterer_gain: NDArray[np.complex128]
    unlocated_paths: UnlocatedPaths
    environment: Environment
    rays: UnlocatedPaths = field(default_factory=UnlocatedPaths.none)
    diffuse_channel: NDArray[np.complex128] | None = None
    user_velocities_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    scatterer_velocities_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    frequency_offsets_hz: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    symbol_phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    user_symbol_phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    channel_over_time: NDArray[np.complex128] | None = None
    element_response: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, complex))
    array_rotation_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    element_displacements_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    coupling_matrix: NDArray[np.complex128] | None = None
    noise_covariance: NDArray[np.float64] | None = None
    interferer_directions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    interference_covariance: NDArray[np.complex128] | None = None

    def channel_at(self, symbols: Sequence[int]) -> NDArray[np.complex128]:
        """Return the channel at OFDM symbols, motion and phases included, shape (K, N, M, len(symbols)).

        Raises
        ------
        TypeError, ValueError
            If they are no indices of symbols.
        """
        index = check_symbol_indices(symbols, self.symbols.shape[2])
        if self.channel_over_time is None:
            return np.repeat(self.channel[..., None], index.size, axis=3)
        return self.channel_over_time[..., index]


@dataclass(frozen=True, eq=False)
class Simulation:
    """An observation and the truth behind it."""

    observation: UplinkObservation
    truth: Truth


class Scenario(BaseModel):
    """Validated description of a simulation (docs/theory.md, section 1).

    Load a ready one with :meth:`load`, change fields with :meth:`replace`, draw with :meth:`simulate`.
    Fields are listed with their meaning in ``scenarios/urban_uplink.toml``.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("low_snr").replace(n_users=2, n_pilot_symbols=2)
    >>> scenario.simulate(seed=3).truth.channel.shape
    (2, 64, 64)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    # receiver
    array_shape: tuple[int, int] = (8, 8)
    spacing_wavelengths: float = Field(0.5, gt=0, allow_inf_nan=False)
    azimuth_rad: FiniteFloat | None = None
    elevation_rad: float = Field(0.0, allow_inf_nan=False)
    carrier_hz: float = Field(3.5e9, gt=0, allow_inf_nan=False)
    wavefront: Literal["planar", "spherical"] = "planar"
    beam_squint: bool = Field(False, strict=True)
    link: Literal["uplink", "monostatic"] = "uplink"
    bs_position_m: Point = (0.0, 0.0, 20.0)
    # waveform
    n_subcarriers: int = Field(64, ge=2)
    subcarrier_spacing_hz: float = Field(1.5e6, gt=0, allow_inf_nan=False)
    modulation: Literal["qpsk", "16qam", "64qam"] = "qpsk"
    pilot_pattern: Literal["orthogonal", "comb", "random"] = "orthogonal"
    n_pilot_symbols: int | None = Field(None, ge=1)
    n_data_symbols: int = Field(12, ge=0)
    snr_db: float = Field(10.0, ge=-200, le=300, allow_inf_nan=False)
    power_control: bool = Field(True, strict=True)
    pilot_positions: tuple[int, ...] | None = Field(None, min_length=1)
    numerology: Literal["15kHz", "30kHz", "60kHz", "120kHz", "240kHz"] | None = None
    symbol_period_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    slot_symbols: tuple[int, ...] | None = None
    # users
    n_users: int = Field(3, ge=1)
    user_region_m: tuple[Point, Point] = ((40.0, -30.0, 1.5), (80.0, 30.0, 1.5))
    user_position_std_m: float = Field(0.3, ge=0, allow_inf_nan=False)
    time_offset_std_s: float = Field(5e-9, ge=0, allow_inf_nan=False)
    line_of_sight_probability: float = Field(1.0, ge=0, le=1)
    # scatterers
    traced: str | None = None
    n_scatterers: int = Field(8, ge=0)
    region_m: tuple[Point, Point] = ((20.0, -30.0, 0.0), (80.0, 30.0, 15.0))
    min_separation_m: float = Field(5.0, ge=0, allow_inf_nan=False)
    min_excess_path_m: float = Field(3.0, ge=0, allow_inf_nan=False)
    visibility_probability: float = Field(0.65, ge=0, le=1)
    reflection_loss_db: float = Field(6.0, ge=0, allow_inf_nan=False)
    reflection_loss_std_db: float = Field(2.0, ge=0, allow_inf_nan=False)
    burst_size: int = Field(1, ge=1)
    burst_radius_m: float = Field(8.0, gt=0, allow_inf_nan=False)
    rays_per_scatterer: int = Field(1, ge=1)
    scatterer_extent_m: float = Field(0.0, ge=0, allow_inf_nan=False)
    # what has no place
    cdl: Literal["CDL-A", "CDL-B", "CDL-C", "CDL-D", "CDL-E"] | None = None
    delay_spread_s: float = Field(100e-9, gt=0, allow_inf_nan=False)
    n_clusters: int = Field(0, ge=0)
    cluster_power_db: float = Field(-3.0, ge=-200, le=200, allow_inf_nan=False)
    cluster_azimuth_spread_rad: float = Field(0.4, ge=0, allow_inf_nan=False)
    diffuse_power_db: float | None = Field(None, ge=-200, le=200, allow_inf_nan=False)
    diffuse_decay_s: float = Field(100e-9, gt=0, allow_inf_nan=False)
    # what moves and turns
    user_speed_m_s: Speed = 0.0
    scatterer_speed_m_s: Speed = 0.0
    moving_share: float = Field(1.0, ge=0, le=1)
    frequency_offset_std_hz: Deviation = 0.0
    phase_noise_std_rad: Deviation = 0.0
    user_phase_noise_std_rad: Deviation = 0.0
    user_velocity_std_m_s: Deviation | tuple[Deviation, Deviation, Deviation] | None = None
    scatterer_velocity_std_m_s: Deviation | None = None
    # what is wrong with the receiver, and with the users' transmitters
    element_gain_std: Deviation = 0.0
    element_phase_std_rad: Deviation = 0.0
    element_position_std_wavelengths: Deviation = 0.0
    n_dead_elements: int = Field(0, ge=0)
    array_rotation_std_rad: Deviation | tuple[Deviation, Deviation, Deviation] = 0.0
    coupling: float = Field(0.0, ge=0, le=1)
    coupling_decay: float = Field(2.0, ge=0, allow_inf_nan=False)
    noise_correlation: float = Field(0.0, ge=0, lt=1)
    noise_spread_db: float = Field(0.0, ge=0, le=20, allow_inf_nan=False)
    n_interferers: int = Field(0, ge=0)
    interferer_power_db: float = Field(-10.0, ge=-200, le=200, allow_inf_nan=False)
    interferer_band_share: float = Field(1.0, gt=0, le=1)
    adc_bits: int | None = Field(None, ge=1, le=16)
    adc_full_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    adc_oversampling: int = Field(2, ge=1, le=64)
    clipping_share: float = Field(0.0, ge=0, lt=1)
    iq_image_db: float | None = Field(None, ge=-200, le=0, allow_inf_nan=False)
    user_iq_image_db: float | None = Field(None, ge=-200, le=0, allow_inf_nan=False)
    amplifier_backoff_db: float | None = Field(None, ge=-50, le=200, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_flags_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """True is no 1: pydantic would take it for one."""
        takes_flags = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        if not takes_flags and _holds_flag(value):
            raise ValueError("must not be true or false")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Scenario:
        n_elements = self.array_shape[0] * self.array_shape[1]
        if min(self.array_shape) < 1:
            raise ValueError(f"array_shape must have at least one antenna an axis, got {self.array_shape}")
        if self.n_users > n_elements:
            raise ValueError(f"n_users: more users than antennas ({self.n_users} > {n_elements})")
        if self.pilot_pattern == "orthogonal" and self.pilot_symbols < self.n_users:
            raise ValueError(
                f"n_pilot_symbols must be at least n_users for orthogonal pilots, "
                f"got {self.pilot_symbols} < {self.n_users}; use pilot_pattern 'comb' or 'random' for fewer"
            )
        if self.pilot_pattern == "comb" and self.n_subcarriers < self.n_users:
            raise ValueError("pilot_pattern 'comb' needs n_subcarriers >= n_users")
        if self.beam_squint and self.wavefront != "planar":
            raise ValueError("beam_squint is modelled for wavefront 'planar' only, got 'spherical'")
        if self.link == "monostatic" and (self.n_users != 1 or self.traced is not None):
            raise ValueError(
                "link 'monostatic' needs n_users = 1 (the base station hears itself) and no traced "
                f"environment, got n_users = {self.n_users}, traced = {self.traced!r}"
            )
        if self.link == "monostatic" and (self.cdl is not None or self.n_clusters):
            raise ValueError(
                "link 'monostatic' has neither a cdl nor n_clusters, which are of users, got "
                f"cdl = {self.cdl!r}, n_clusters = {self.n_clusters}"
            )
        if self.cdl is not None and self.traced is not None:
            raise ValueError(f"cdl and traced exclude each other, got {self.cdl!r} and {self.traced!r}")
        if self.cdl is not None and self.rays_per_scatterer > 1:
            raise ValueError(
                "rays_per_scatterer must be 1 with a cdl, which has no scatterers, got "
                f"{self.rays_per_scatterer}"
            )
        if (self.rays_per_scatterer > 1) != (self.scatterer_extent_m > 0):
            raise ValueError(
                "rays_per_scatterer above 1 and a scatterer_extent_m above 0 need each other, got "
                f"{self.rays_per_scatterer} and {self.scatterer_extent_m}"
            )
        if self.n_dead_elements >= n_elements:
            raise ValueError(
                f"n_dead_elements must be below the {n_elements} antennas, got {self.n_dead_elements}"
            )
        if self.adc_full_scale is not None and self.adc_bits is None:
            raise ValueError(f"adc_full_scale needs adc_bits, got {self.adc_full_scale} alone")
        self._check_symbols()
        self._check_motion()
        for name, box, strict in (
            ("region_m", self.region_m, True),
            ("user_region_m", self.user_region_m, False),
        ):
            low, high = np.asarray(box)
            if np.any(high < low) or (strict and np.any(high <= low)):
                raise ValueError(f"{name} must have its second corner beyond the first, got {box}")
        return self

    def _check_symbols(self) -> None:
        """Check where pilots are and when symbols are."""
        positions, n_symbols = self.pilot_positions, self.pilot_symbols + self.n_data_symbols
        if positions is not None:
            check_symbols("pilot_positions", positions, self.pilot_symbols)
            if positions[-1] >= n_symbols:
                raise ValueError(f"pilot_positions must be below {n_symbols} symbols, got {positions}")
        if self.numerology is not None and self.symbol_period_s is not None:
            raise ValueError(
                f"numerology and symbol_period_s exclude each other, got {self.numerology!r} and "
                f"{self.symbol_period_s}"
            )
        if self.numerology is not None:
            check_raster(self.numerology, self.subcarrier_spacing_hz)
        if self.slot_symbols is not None:
            check_symbols("slot_symbols", self.slot_symbols, n_symbols)
            if not self.has_times:
                raise ValueError(
                    f"slot_symbols needs numerology or symbol_period_s, got {self.slot_symbols} alone"
                )

    def _check_motion(self) -> None:
        """Check that what moves has times, and limits of speeds their order."""
        for name in ("user_speed_m_s", "scatterer_speed_m_s"):
            speed = getattr(self, name)
            if isinstance(speed, tuple) and speed[1] < speed[0]:
                raise ValueError(f"{name} must have its upper limit second, got {speed}")
        moving = [name for name in _MOVES if moves(getattr(self, name))]
        if moving and not self.has_times:
            raise ValueError(f"{moving[0]} needs numerology or symbol_period_s, which say when symbols are")
        if self.link == "monostatic":
            for name in ("user_speed_m_s", "user_velocity_std_m_s"):
                if moves(getattr(self, name)):
                    raise ValueError(
                        f"{name} must be zero for link 'monostatic', whose user is the station, got "
                        f"{getattr(self, name)}"
                    )

    @property
    def pilot_symbols(self) -> int:
        """Number of pilot symbols: as given, or of their positions, or else ``n_users``."""
        if self.n_pilot_symbols is None and self.pilot_positions is not None:
            return len(self.pilot_positions)
        return self.n_users if self.n_pilot_symbols is None else self.n_pilot_symbols

    @property
    def has_times(self) -> bool:
        """Whether it is known when symbols are."""
        return self.numerology is not None or self.symbol_period_s is not None

    @property
    def carrier_spacing_hz(self) -> float:
        """Spacing of all subcarriers, used or not; without a numerology that of the narrowest possible."""
        if self.numerology is not None:
            return NUMEROLOGIES[self.numerology]
        return self.subcarrier_spacing_hz if self.symbol_period_s is None else 1 / self.symbol_period_s

    def symbol_times_s(self, n_symbols: int) -> NDArray[np.float64]:
        """Return the centre times of the OFDM symbols of a block, shape (T,)."""
        symbols = np.arange(n_symbols) if self.slot_symbols is None else np.asarray(self.slot_symbols)
        if self.numerology is not None:
            return slot_times_s(self.numerology, symbols)
        if self.symbol_period_s is None:
            raise ValueError("numerology or symbol_period_s must be given for times, got neither")
        return np.asarray(self.symbol_period_s * (symbols + 0.5), dtype=np.float64)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Scenario:
        """Load a scenario by name (see :func:`scenario_names`) or from a TOML file.

        A relative path ``traced`` in a file is sought beside that file, then in the current folder, then
        among the shipped environments.

        Raises
        ------
        ValueError
            For an unknown name (the known ones are listed), an unknown key or a bad value (named).
        """
        if not isinstance(name_or_path, (str, Path)):
            raise TypeError(f"name_or_path must be a name or a path, got {name_or_path!r}")
        path = Path(name_or_path)
        if path.suffix.lower() == ".toml" or path.is_file():
            if not path.is_file():
                raise ValueError(f"no such scenario file: {path}")
            content, source, folder = path.read_bytes(), str(path), path.parent
        else:
            known = scenario_names()
            if str(name_or_path) not in known:
                raise ValueError(f"unknown scenario {str(name_or_path)!r}; known are {', '.join(known)}")
            content = (_scenario_folder() / f"{name_or_path}.toml").read_bytes()
            source, folder = f"scenario {name_or_path}", Path()
        try:
            values = tomllib.loads(content.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} is not valid TOML: {error}") from None
        scenario = cls._validated(values, source)
        traced = None if scenario.traced is None else _find_traced(scenario.traced, folder, source)
        return scenario if traced == scenario.traced else scenario.replace(traced=traced)

    @classmethod
    def _validated(cls, values: dict[str, Any], source: str) -> Scenario:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{source}: {_readable(error, list(cls.model_fields))}") from None

    def replace(self, **changes: Any) -> Scenario:
        """Return a copy with some fields changed, validated anew."""
        return self._validated({**self.model_dump(), **changes}, "scenario")

    def dump(self, path: str | Path) -> Path:
        """Write the scenario as TOML and return the path."""
        lines = [
            f"{name} = {_toml_value(value)}" for name, value in self.model_dump().items() if value is not None
        ]
        target = Path(path)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return target

    def simulate(
        self,
        seed: int | np.random.SeedSequence = 0,
        *,
        environment: Environment | None = None,
        users: Sequence[int] | None = None,
    ) -> Simulation:
        """Draw one uplink block.

        Parameters
        ----------
        seed : int or SeedSequence
            The same seed gives the same bits. Environment, users, clocks, symbols, noise, bodies,
            clusters, the diffuse tail, motion, oscillators, the motion of the tail, and every error of
            receivers and transmitters have independent streams, so that a change of SNR keeps the scene.
        environment : Environment, optional
            A fixed or traced environment instead of a drawn one.
        users : sequence of int, optional
            Users of a traced or given environment; drawn by seed among those with a path if not given.

        Raises
        ------
        TypeError, ValueError
            For a bad seed, environment or choice of users.

        Warns
        -----
        ImplausibleValueWarning
            Where inter-carrier interference, which is left out, would exceed the noise.

        Notes
        -----
        With motion every path turns at the constant Doppler shift that it has at the reference time
        (docs/theory.md, section 1.7).
        """
        seeds = _spawn(seed, _STREAMS)
        streams = [np.random.default_rng(s) for s in seeds]
        scene = moving_environment(self, self._scene(environment, users, streams[0]), streams[8])
        errors = self._drawn_errors(scene.n_users, streams)
        return self._block(scene, errors, self._array(scene), seeds, streams)

    def simulate_track(
        self,
        n_blocks: int,
        interval_s: float,
        seed: int | np.random.SeedSequence = 0,
        *,
        process: ConstantVelocity | None = None,
        environment: Environment | None = None,
        users: Sequence[int] | None = None,
    ) -> list[Simulation]:
        """Draw successive uplink blocks of one scene that goes on from block to block.

        Parameters
        ----------
        n_blocks : int
            Number of blocks B.
        interval_s : float
            From one block's reference time to the next one's.
        seed : int or SeedSequence
            As in :meth:`simulate`, whose block is the first of the track. Accelerations, clocks and carriers
            have a stream of their own; symbols, noise and phases one for every block.
        process : ConstantVelocity, optional
            How velocities, clocks and carriers change; they stay as they are if not given. Only scatterers
            that move are accelerated, and nobody leaves the horizontal plane.
        environment, users : optional
            As in :meth:`simulate`.

        Returns
        -------
        list of Simulation
            Scatterers and users have the same order in every truth, and who sees what stays as it is.
            Without a numerology or symbol period the observations do not say when they were received.

        Raises
        ------
        TypeError, ValueError
            For bad numbers, seed, environment or choice of users.

        Warns
        -----
        ImplausibleValueWarning
            As in :meth:`simulate`.

        Notes
        -----
        Amplitudes fall with a path's length, and phases turn with it. The errors of the users' nominal
        positions are those of the first block throughout, as those of a satellite receiver stay for a while:
        what each block says of the user's place is not independent of what the others say. Paths of more
        bounces, rays and a diffuse tail keep delays and directions; all but the tail turn as their Doppler
        shifts say (docs/theory.md, section 11.1).
        """
        check_integer("n_blocks", n_blocks, 1)
        check_positive("interval_s", interval_s)
        if process is not None and not isinstance(process, ConstantVelocity):
            raise TypeError(f"process must be a ConstantVelocity, got {type(process).__name__}")
        seeds = _spawn(seed, _STREAMS)
        streams = [np.random.default_rng(s) for s in seeds]
        scene = moving_environment(self, self._scene(environment, users, streams[0]), streams[8])
        errors, array = self._drawn_errors(scene.n_users, streams), self._array(scene)
        drift_rng, simulations = np.random.default_rng(seeds[11]), []
        for b in range(n_blocks):
            if b:
                scene, errors = next_block(scene, errors, interval_s, process, self.carrier_hz, drift_rng)
                streams = [np.random.default_rng(s) for s in _for_block(seeds, b)]
            simulation = self._block(scene, errors, array, seeds, streams, b * interval_s)
            errors = replace(errors, frequency_offsets_hz=simulation.truth.frequency_offsets_hz)
            simulations.append(simulation)
        return simulations

    def _drawn_errors(self, n_users: int, streams: Sequence[np.random.Generator]) -> UserErrors:
        """Errors of the users' nominal positions, and their clocks."""
        known = self.link == "monostatic"
        position_std_m = 0.0 if known else self.user_position_std_m
        offset_std_s = 0.0 if known else self.time_offset_std_s
        return UserErrors(
            position_std_m * streams[1].standard_normal((n_users, 3)),
            offset_std_s * streams[2].standard_normal(n_users),
        )

    def _block(
        self,
        scene: Environment,
        user_errors: UserErrors,
        array: UniformPlanarArray,
        seeds: Sequence[np.random.SeedSequence],
        streams: Sequence[np.random.Generator],
        start_s: float = 0.0,
    ) -> Simulation:
        """Simulate one block of a scene; carriers are drawn unless the errors have them."""
        n_users = scene.n_users
        monostatic = self.link == "monostatic"
        position_std_m, offset_std_s = self.user_position_std_m, self.time_offset_std_s
        if monostatic:
            position_std_m = offset_std_s = 0.0
        error_m, offsets_s = user_errors.position_m, user_errors.clock_s
        errors = draw_imperfections(self, array, list(seeds[12:18]))
        mounted = errors.mounted(array)
        frequencies = (
            np.arange(self.n_subcarriers, dtype=np.float64) - (self.n_subcarriers - 1) / 2
        ) * self.subcarrier_spacing_hz

        def channel_of(part: Environment) -> NDArray[np.complex128]:
            return multi_user_channel(
                part, mounted, frequencies, offsets_s, self.wavefront, self.carrier_hz, self.beam_squint
            )

        heard, listed = self._heard_and_listed(scene, streams[5], streams[6], streams[8])
        channel = channel_of(heard)
        diffuse = channel - channel_of(listed) if listed is not heard else None
        tails: list[NDArray[np.complex128]] = []
        if self.diffuse_power_db is not None:
            n_parts = _TAIL_PARTS if moves(scene.user_velocities_m_s) else 1
            tails = [
                draw_diffuse(
                    path_powers(heard) * 10 ** (self.diffuse_power_db / 10) / n_parts,
                    first_delays_s(heard) + offsets_s,
                    self.diffuse_decay_s,
                    frequencies,
                    array.n_elements,
                    streams[7],
                )
                for _ in range(n_parts)
            ]
            tail = np.sum(tails, axis=0) if n_parts > 1 else tails[0]
            channel = channel + tail
            diffuse = tail if diffuse is None else diffuse + tail
        scale = normalise_power(channel, self.power_control)
        channel = channel * scale[:, None, None]
        positions = self.pilot_positions
        n_pilots = self.pilot_symbols
        if self.n_users != n_users and self.n_pilot_symbols is None and positions is None:
            n_pilots = n_users
        pilots = make_pilots(self.pilot_pattern, n_users, self.n_subcarriers, n_pilots, streams[3])
        block = draw_symbols(pilots, self.n_data_symbols, qam_constellation(self.modulation), streams[3])
        if positions is not None:
            block = with_pilots_at(block, positions)
        if monostatic:
            block = all_known(block)
        noise_variance = noise_variance_for_snr(channel, self.snr_db)
        times_s = start_s + self.symbol_times_s(block.mask.shape[1]) if self.has_times else None
        turning, over_time = turning_of(self, scene, times_s, streams[9]), None
        if turning is not None and user_errors.frequency_offsets_hz is not None:
            turning = replace(turning, frequency_offsets_hz=user_errors.frequency_offsets_hz)
        if turning is not None:
            over_time = moving_channel(
                heard,
                mounted,
                frequencies,
                offsets_s,
                self.wavefront,
                self.carrier_hz,
                self.beam_squint,
                turning.times_s,
            )
            tail_dopplers = draw_diffuse_dopplers(self.carrier_hz, scene, len(tails), streams[10])
            _add_tails(over_time, tails, tail_dopplers, turning.times_s)
            over_time *= scale[:, None, None, None] * turning.factors[:, None, None, :]
            between = interference_power(
                heard, self.carrier_hz, turning.frequency_offsets_hz, self.carrier_spacing_hz
            )
            warn_of_interference(between * scale**2, noise_variance)
        users_power = float(np.mean(np.abs(channel) ** 2))
        channel = errors.heard(channel)
        diffuse = None if diffuse is None else errors.heard(diffuse)
        if over_time is not None:
            over_time = errors.heard(over_time.swapaxes(2, 3)).swapaxes(2, 3)
        received = receive(
            channel if over_time is None else over_time,
            sent_symbols(self, block.symbols, streams[19]),
            noise_variance,
            streams[4],
            errors.noise_covariance,
        )
        if self.n_interferers:
            n_symbols = block.mask.shape[1]
            received = received + draw_interference(
                self, errors, mounted, frequencies, n_symbols, users_power, streams[18]
            )
        observation = UplinkObservation(
            received=received_samples(self, received, streams[20]),
            pilots=block.pilots,
            pilot_mask=block.mask,
            array=array,
            subcarrier_frequencies_hz=frequencies,
            bs_position_m=scene.bs_position_m,
            user_positions_m=scene.user_positions_m + error_m,
            user_position_std_m=np.asarray(position_std_m),
            time_offset_std_s=np.asarray(offset_std_s),
            constellation=qam_constellation(self.modulation),
            region_m=scene.region_m,
            carrier_hz=self.carrier_hz,
            wavefront=self.wavefront,
            link=self.link,
            beam_squint=self.beam_squint,
            **motion_priors(self, scene, times_s),
            **hardware_priors(self),
        )
        truth = _truth(listed, array, channel, scale, offsets_s, block, noise_variance)
        truth = replace(truth, **self._moved(listed, turning, over_time, truth))
        truth = replace(truth, **errors.as_truth(self.carrier_hz))
        interference = interference_covariance(self, errors, mounted, users_power)
        truth = replace(truth, interference_covariance=interference)
        if diffuse is not None:
            truth = replace(
                truth,
                visibility=scene.scatterer_gain != 0,
                environment=scene,
                rays=_ray_paths(heard.rays, array, scale),
                diffuse_channel=diffuse * scale[:, None, None],
            )
        return Simulation(observation, truth)

    def _moved(
        self,
        listed: Environment,
        turning: Turning | None,
        over_time: NDArray[np.complex128] | None,
        truth: Truth,
    ) -> dict[str, Any]:
        """What the truth says of motion and oscillators."""
        n_users, n_symbols = truth.symbols.shape[0], truth.symbols.shape[2]
        users_m_s, points_m_s = velocities_of(listed)
        if turning is None:
            turning = Turning(
                np.zeros(n_symbols), np.zeros(n_users), np.zeros(n_symbols), np.zeros((n_users, n_symbols))
            )
        unlocated = truth.unlocated_paths
        if over_time is not None:
            unlocated = replace(unlocated, doppler_hz=path_dopplers(listed, self.carrier_hz).extra)
        return {
            "unlocated_paths": unlocated,
            "user_velocities_m_s": users_m_s,
            "scatterer_velocities_m_s": points_m_s,
            "frequency_offsets_hz": turning.frequency_offsets_hz,
            "symbol_phase_rad": turning.symbol_phase_rad,
            "user_symbol_phase_rad": turning.user_symbol_phase_rad,
            "channel_over_time": over_time,
        }

    def _heard_and_listed(
        self,
        scene: Environment,
        body_rng: np.random.Generator,
        cluster_rng: np.random.Generator,
        motion_rng: np.random.Generator,
    ) -> tuple[Environment, Environment]:
        """What the array hears, and what of it the truth lists; one object if there is no difference."""
        heard = listed = scene
        if self.rays_per_scatterer > 1:
            heard = spread_scatterers(scene, self.rays_per_scatterer, self.scatterer_extent_m, body_rng)
            summed = heard.scatterer_gain.reshape(*scene.scatterer_gain.shape, self.rays_per_scatterer)
            listed = replace(scene, scatterer_gain=summed.sum(axis=-1))
        if self.n_clusters:
            clusters = draw_clusters(
                scene,
                self.n_clusters,
                self.cluster_power_db,
                self.delay_spread_s,
                self.cluster_azimuth_spread_rad,
                cluster_rng,
            )
            heard = replace(heard, rays=Rays.joined([scene.rays, clusters]))
            if scene.user_velocities_m_s is not None:
                heard = fill_dopplers(self.carrier_hz, heard, motion_rng)
        if len(heard.rays):
            listed = replace(listed, rays=Rays.none())
        return heard, listed

    def _scene(
        self, environment: Environment | None, users: Sequence[int] | None, rng: np.random.Generator
    ) -> Environment:
        if environment is not None and not isinstance(environment, Environment):
            raise TypeError(f"environment must be an Environment, got {type(environment).__name__}")
        if environment is not None and self.link == "monostatic":
            raise ValueError("environment cannot be given for link 'monostatic', which draws its own")
        if environment is None and self.traced is None:
            if users is not None:
                raise ValueError("users can only be chosen from a given or traced environment")
            return draw_environment(self, rng) if self.cdl is None else cdl_environment(self, rng)
        scene = environment if environment is not None else load_traced(self.traced or "")
        if users is None:
            candidates = np.flatnonzero(scene.path_counts > 0)
            if candidates.size < self.n_users:
                raise ValueError(
                    f"environment has {candidates.size} users with a path, n_users is {self.n_users}"
                )
            users = np.sort(rng.choice(candidates, self.n_users, replace=False)).tolist()
        return scene.select_users(users)

    def _array(self, scene: Environment) -> UniformPlanarArray:
        """The scenario's array; without an azimuth it faces the users (monostatic: the region)."""
        azimuth = self.azimuth_rad
        if azimuth is None:
            ahead = scene.region_m if self.link == "monostatic" else scene.user_positions_m
            towards = ahead.mean(axis=0) - scene.bs_position_m
            azimuth = float(np.arctan2(towards[1], towards[0]))
        return UniformPlanarArray(self.array_shape, self.spacing_wavelengths, azimuth, self.elevation_rad)


#: Fields that make a block turn.
_MOVES = (
    "user_speed_m_s",
    "scatterer_speed_m_s",
    "frequency_offset_std_hz",
    "phase_noise_std_rad",
    "user_phase_noise_std_rad",
    "user_velocity_std_m_s",
    "scatterer_velocity_std_m_s",
)


def _add_tails(
    channel: NDArray[np.complex128],
    tails: list[NDArray[np.complex128]],
    dopplers_hz: NDArray[np.float64],
    times_s: NDArray[np.float64],
) -> None:
    """Add tails (K, N, M), each turning at its own rate (K, parts), to a channel (K, N, M, T) in place."""
    for part, doppler_hz in zip(tails, dopplers_hz.T, strict=True):
        turns = np.exp(2j * np.pi * np.outer(doppler_hz, times_s))
        channel += part[..., None] * turns[:, None, None, :]


def scenario_names() -> list[str]:
    """Return the names of the ready scenarios."""
    return sorted(
        p.name.removesuffix(".toml") for p in _scenario_folder().iterdir() if p.name.endswith(".toml")
    )


def _scenario_folder() -> Any:
    """The shipped folder, or the one of a source checkout."""
    shipped = files("isac_toolbox") / "scenarios"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "scenarios"


def _find_traced(traced: str, folder: Path, source: str) -> str:
    """Return where a scenario file's traced environment is: a path, or the name of a shipped one."""
    beside = folder / traced
    if beside.is_file():
        return str(beside)
    try:
        load_traced(traced)
    except FileNotFoundError as error:
        raise ValueError(f"{source}: traced: {error}, and beside the scenario as {beside}") from None
    return traced


def _holds_flag(value: Any) -> bool:
    """Whether a value, or an item of a list in it, is a boolean."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_flag, value))
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, np.ndarray) and value.dtype == bool)


def _spawn(seed: int | np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    if isinstance(seed, np.random.SeedSequence):
        return [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i)) for i in range(count)]
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer or a SeedSequence, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be non-negative, got {seed}")
    return np.random.SeedSequence(int(seed)).spawn(count)


def _for_block(seeds: Sequence[np.random.SeedSequence], block: int) -> list[np.random.SeedSequence]:
    """Seeds of a later block's streams: symbols, noise, phases, interferers anew, the others as before."""
    anew = (3, 4, 9, 18)
    return [
        np.random.SeedSequence(s.entropy, spawn_key=(*s.spawn_key, block)) if i in anew else s
        for i, s in enumerate(seeds)
    ]


def _truth(
    scene: Environment,
    array: UniformPlanarArray,
    channel: NDArray[np.complex128],
    scale: NDArray[np.float64],
    offsets_s: NDArray[np.float64],
    block: Any,
    noise_variance: float,
) -> Truth:
    cosines = np.stack(array.direction_cosines(scene.extra_direction), axis=-1)
    unlocated = UnlocatedPaths(
        user=scene.extra_user,
        direction_cosines=cosines,
        delay_s=scene.extra_delay_s,
        gain=scene.extra_gain * scale[scene.extra_user],
        probability=np.ones(scene.extra_user.size),
    )
    return Truth(
        channel=channel,
        scatterer_positions_m=scene.scatterer_positions_m,
        visibility=scene.scatterer_gain != 0,
        user_positions_m=scene.user_positions_m,
        time_offsets_s=offsets_s,
        symbols=block.symbols,
        symbol_indices=block.indices,
        noise_variance=noise_variance,
        line_of_sight=scene.line_of_sight_gain != 0,
        line_of_sight_gain=scene.line_of_sight_gain * scale,
        scatterer_gain=scene.scatterer_gain * scale[:, None],
        unlocated_paths=unlocated,
        environment=scene,
    )


def _ray_paths(rays: Rays, array: UniformPlanarArray, scale: NDArray[np.float64]) -> UnlocatedPaths:
    """Return the rays as the array sees them, gains scaled like the channel."""
    return UnlocatedPaths(
        user=rays.user,
        direction_cosines=np.stack(array.direction_cosines(rays.direction), axis=-1),
        delay_s=rays.delay_s,
        gain=rays.gain * scale[rays.user],
        probability=np.ones(len(rays)),
    )


def _readable(error: ValidationError, known: list[str]) -> str:
    """One line per problem: the key, what came, what is allowed."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}; known are {', '.join(known)}")
        elif key:
            lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return "; ".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON escapes what a TOML string must escape, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
