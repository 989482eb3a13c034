"""Fields of a scenario, and what must hold among them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from isac_toolbox._validation import SMALLEST_DEVIATION
from isac_toolbox.channel.movement import moves
from isac_toolbox.channel.numerology import NUMEROLOGIES, check_raster, check_symbols, slot_times_s

__all__ = ["ScenarioSettings"]

#: Guard: metres, beyond which squares and differences of places lose what is asked of them.
FARTHEST_M = 1e12
#: Guard: deviations of anything else; far beyond all that is, and their squares are numbers.
_LARGEST_DEVIATION = 1e9
Coordinate = Annotated[float, Field(ge=-FARTHEST_M, le=FARTHEST_M, allow_inf_nan=False)]
Point = tuple[Coordinate, Coordinate, Coordinate]


def _not_tiny(value: float) -> float:
    if 0 < value < SMALLEST_DEVIATION:
        raise ValueError(f"must be zero or at least {SMALLEST_DEVIATION:g}")
    return value


NotTiny = Annotated[float, AfterValidator(_not_tiny)]
Deviation = Annotated[NotTiny, Field(ge=0, le=_LARGEST_DEVIATION, allow_inf_nan=False)]
Speed = Deviation | tuple[Deviation, Deviation]

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


class ScenarioSettings(BaseModel):
    """Everything that a simulation needs, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    # receiver
    array_shape: tuple[int, int] = (8, 8)
    spacing_wavelengths: float = Field(0.5, ge=1e-6, le=1e6, allow_inf_nan=False)
    azimuth_rad: FiniteFloat | None = None
    elevation_rad: float = Field(0.0, allow_inf_nan=False)
    carrier_hz: float = Field(3.5e9, gt=0, le=1e16, allow_inf_nan=False)
    wavefront: Literal["planar", "spherical"] = "planar"
    beam_squint: bool = Field(False, strict=True)
    link: Literal["uplink", "monostatic"] = "uplink"
    bs_position_m: Point = (0.0, 0.0, 20.0)
    # waveform
    n_subcarriers: int = Field(64, ge=2)
    subcarrier_spacing_hz: float = Field(1.5e6, ge=1e-3, le=1e12, allow_inf_nan=False)
    modulation: Literal["qpsk", "16qam", "64qam"] = "qpsk"
    pilot_pattern: Literal["orthogonal", "comb", "random"] = "orthogonal"
    n_pilot_symbols: int | None = Field(None, ge=1)
    n_data_symbols: int = Field(12, ge=0)
    snr_db: float = Field(10.0, ge=-200, le=300, allow_inf_nan=False)
    power_control: bool = Field(True, strict=True)
    pilot_positions: tuple[int, ...] | None = Field(None, min_length=1)
    numerology: Literal["15kHz", "30kHz", "60kHz", "120kHz", "240kHz"] | None = None
    symbol_period_s: float | None = Field(None, gt=1e-15, le=1e6, allow_inf_nan=False)
    slot_symbols: tuple[int, ...] | None = None
    # users
    n_users: int = Field(3, ge=1)
    user_region_m: tuple[Point, Point] = ((40.0, -30.0, 1.5), (80.0, 30.0, 1.5))
    user_position_std_m: NotTiny = Field(0.3, ge=0, le=FARTHEST_M, allow_inf_nan=False)
    time_offset_std_s: NotTiny = Field(5e-9, ge=0, le=1e3, allow_inf_nan=False)
    line_of_sight_probability: float = Field(1.0, ge=0, le=1)
    # scatterers
    traced: str | None = None
    n_scatterers: int = Field(8, ge=0)
    region_m: tuple[Point, Point] = ((20.0, -30.0, 0.0), (80.0, 30.0, 15.0))
    min_separation_m: float = Field(5.0, ge=0, allow_inf_nan=False)
    min_excess_path_m: float = Field(3.0, ge=0, allow_inf_nan=False)
    visibility_probability: float = Field(0.65, ge=0, le=1)
    reflection_loss_db: float = Field(6.0, ge=0, le=200, allow_inf_nan=False)
    reflection_loss_std_db: float = Field(2.0, ge=0, le=50, allow_inf_nan=False)
    burst_size: int = Field(1, ge=1)
    burst_radius_m: float = Field(8.0, gt=0, allow_inf_nan=False)
    rays_per_scatterer: int = Field(1, ge=1)
    scatterer_extent_m: float = Field(0.0, ge=0, le=FARTHEST_M, allow_inf_nan=False)
    # what has no place
    cdl: Literal["CDL-A", "CDL-B", "CDL-C", "CDL-D", "CDL-E"] | None = None
    delay_spread_s: float = Field(100e-9, gt=0, le=1, allow_inf_nan=False)
    n_clusters: int = Field(0, ge=0)
    cluster_power_db: float = Field(-3.0, ge=-200, le=200, allow_inf_nan=False)
    cluster_azimuth_spread_rad: float = Field(0.4, ge=0, le=2 * np.pi, allow_inf_nan=False)
    diffuse_power_db: float | None = Field(None, ge=-200, le=200, allow_inf_nan=False)
    diffuse_decay_s: float = Field(100e-9, gt=0, le=1, allow_inf_nan=False)
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
    element_gain_std: NotTiny = Field(0.0, ge=0, le=5, allow_inf_nan=False)
    element_phase_std_rad: Deviation = 0.0
    element_position_std_wavelengths: Deviation = 0.0
    n_dead_elements: int = Field(0, ge=0)
    array_rotation_std_rad: Deviation | tuple[Deviation, Deviation, Deviation] = 0.0
    coupling: NotTiny = Field(0.0, ge=0, le=1, allow_inf_nan=False)
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
    def _check_together(self) -> ScenarioSettings:
        self._check_users()
        self._check_link()
        self._check_scatterers()
        self._check_receiver()
        self._check_symbols()
        self._check_motion()
        self._check_regions()
        return self

    def _check_users(self) -> None:
        """Check that the array can tell the users apart, and the pilots as well."""
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

    def _check_link(self) -> None:
        """Check that wavefront and link are ones that are modelled with the rest."""
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

    def _check_scatterers(self) -> None:
        """Check that there is one source of paths, and bodies have rays and an extent."""
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

    def _check_receiver(self) -> None:
        """Check that some element works, and a full scale has its converter."""
        n_elements = self.array_shape[0] * self.array_shape[1]
        if self.n_dead_elements >= n_elements:
            raise ValueError(
                f"n_dead_elements must be below the {n_elements} antennas, got {self.n_dead_elements}"
            )
        if self.adc_full_scale is not None and self.adc_bits is None:
            raise ValueError(f"adc_full_scale needs adc_bits, got {self.adc_full_scale} alone")

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

    def _check_regions(self) -> None:
        """Check the corners of the boxes; that of the users may be flat."""
        for name, box, strict in (
            ("region_m", self.region_m, True),
            ("user_region_m", self.user_region_m, False),
        ):
            low, high = np.asarray(box)
            if np.any(high < low) or (strict and np.any(high <= low)):
                raise ValueError(f"{name} must have its second corner beyond the first, got {box}")

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


def _holds_flag(value: Any) -> bool:
    """Whether a value, or an item of a list in it, is a boolean."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_flag, value))
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, np.ndarray) and value.dtype == bool)
