"""Scenarios: everything a simulation needs, validated, and the simulation itself."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

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

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.cdl import cdl_environment
from isac_toolbox.channel.clutter import (
    draw_clusters,
    draw_diffuse,
    first_delays_s,
    path_powers,
    spread_scatterers,
)
from isac_toolbox.channel.environment import Environment, draw_environment, load_traced
from isac_toolbox.channel.model import multi_user_channel, normalise_power
from isac_toolbox.channel.modulation import qam_constellation
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.channel.rays import Rays
from isac_toolbox.channel.uplink import (
    all_known,
    draw_symbols,
    make_pilots,
    noise_variance_for_snr,
    receive,
)

__all__ = ["Scenario", "Simulation", "Truth", "scenario_names"]

Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation knows and no estimator sees.

    Attributes
    ----------
    channel : ndarray of complex, shape (K, N, M)
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
                f"got {self.n_pilot_symbols} < {self.n_users}; use pilot_pattern 'comb' or 'random' for fewer"
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
        for name, box, strict in (
            ("region_m", self.region_m, True),
            ("user_region_m", self.user_region_m, False),
        ):
            low, high = np.asarray(box)
            if np.any(high < low) or (strict and np.any(high <= low)):
                raise ValueError(f"{name} must have its second corner beyond the first, got {box}")
        return self

    @property
    def pilot_symbols(self) -> int:
        """Number of pilot symbols; ``n_users`` unless given."""
        return self.n_users if self.n_pilot_symbols is None else self.n_pilot_symbols

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
            clusters and the diffuse tail have independent streams, so that a change of SNR keeps the scene.
        environment : Environment, optional
            A fixed or traced environment instead of a drawn one.
        users : sequence of int, optional
            Users of a traced or given environment; drawn by seed among those with a path if not given.

        Raises
        ------
        TypeError, ValueError
            For a bad seed, environment or choice of users.
        """
        streams = [np.random.default_rng(s) for s in _spawn(seed, 8)]
        scene = self._scene(environment, users, streams[0])
        n_users = scene.n_users
        monostatic = self.link == "monostatic"
        position_std_m, offset_std_s = self.user_position_std_m, self.time_offset_std_s
        if monostatic:
            position_std_m = offset_std_s = 0.0
        error_m = position_std_m * streams[1].standard_normal((n_users, 3))
        offsets_s = offset_std_s * streams[2].standard_normal(n_users)
        array = self._array(scene)
        frequencies = (
            np.arange(self.n_subcarriers, dtype=np.float64) - (self.n_subcarriers - 1) / 2
        ) * self.subcarrier_spacing_hz

        def channel_of(part: Environment) -> NDArray[np.complex128]:
            return multi_user_channel(
                part, array, frequencies, offsets_s, self.wavefront, self.carrier_hz, self.beam_squint
            )

        heard, listed = self._heard_and_listed(scene, streams[5], streams[6])
        channel = channel_of(heard)
        diffuse = channel - channel_of(listed) if listed is not heard else None
        if self.diffuse_power_db is not None:
            tail = draw_diffuse(
                path_powers(heard) * 10 ** (self.diffuse_power_db / 10),
                first_delays_s(heard) + offsets_s,
                self.diffuse_decay_s,
                frequencies,
                array.n_elements,
                streams[7],
            )
            channel = channel + tail
            diffuse = tail if diffuse is None else diffuse + tail
        scale = normalise_power(channel, self.power_control)
        channel = channel * scale[:, None, None]
        n_pilots = self.pilot_symbols if self.n_users == n_users else (self.n_pilot_symbols or n_users)
        pilots = make_pilots(self.pilot_pattern, n_users, self.n_subcarriers, n_pilots, streams[3])
        block = draw_symbols(pilots, self.n_data_symbols, qam_constellation(self.modulation), streams[3])
        if monostatic:
            block = all_known(block)
        noise_variance = noise_variance_for_snr(channel, self.snr_db)
        observation = UplinkObservation(
            received=receive(channel, block.symbols, noise_variance, streams[4]),
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
        )
        truth = _truth(listed, array, channel, scale, offsets_s, block, noise_variance)
        if diffuse is not None:
            truth = replace(
                truth,
                visibility=scene.scatterer_gain != 0,
                environment=scene,
                rays=_ray_paths(heard.rays, array, scale),
                diffuse_channel=diffuse * scale[:, None, None],
            )
        return Simulation(observation, truth)

    def _heard_and_listed(
        self, scene: Environment, body_rng: np.random.Generator, cluster_rng: np.random.Generator
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
