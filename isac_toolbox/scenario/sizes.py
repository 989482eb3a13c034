"""What a block needs of memory, before any of it is drawn."""

from __future__ import annotations

from isac_toolbox._files import machine_bytes
from isac_toolbox.scenario.settings import ScenarioSettings

__all__ = ["block_bytes", "check_memory"]

_COMPLEX = 16
#: Rays of a cluster, and the most clusters that a clustered delay line has.
_RAYS_OF_CLUSTER, _CLUSTERS_OF_CDL = 20, 24
#: Tables that hold something of every path: places, delays, directions and gains.
_TABLES_OF_PATHS = 8


def block_bytes(settings: ScenarioSettings) -> int:
    """Return roughly the memory that the simulation of one block takes, in whole numbers of any size."""
    n_users, n_sub = settings.n_users, settings.n_subcarriers
    n_antennas = settings.array_shape[0] * settings.array_shape[1]
    n_symbols = settings.pilot_symbols + settings.n_data_symbols
    clusters = settings.n_clusters + (_CLUSTERS_OF_CDL if settings.cdl is not None else 0)
    paths = 1 + settings.n_scatterers * settings.rays_per_scatterer + _RAYS_OF_CLUSTER * clusters
    times = n_symbols if settings.has_times else 1
    distorts = settings.adc_bits is not None or settings.clipping_share > 0
    samples = n_sub * n_antennas * n_symbols * (2 + (settings.adc_oversampling if distorts else 1))
    channels = n_users * n_sub * n_antennas * (2 + times)
    sent = n_users * n_sub * n_symbols * 3
    waves = paths * (n_sub + n_antennas + n_users * _TABLES_OF_PATHS)
    interference = settings.n_interferers * (n_sub * n_symbols + n_antennas)
    return _COMPLEX * (samples + channels + sent + waves + interference)


def check_memory(settings: ScenarioSettings) -> None:
    """Refuse a block that this machine cannot hold.

    Raises
    ------
    MemoryError
        With the sizes of the block and both amounts.
    """
    needed, there = block_bytes(settings), machine_bytes()
    if needed > there:
        n_symbols = settings.pilot_symbols + settings.n_data_symbols
        raise MemoryError(
            f"a block of n_users = {settings.n_users}, n_subcarriers = {settings.n_subcarriers}, array_shape "
            f"= {settings.array_shape}, {n_symbols} symbols, n_scatterers = {settings.n_scatterers}, "
            f"n_clusters = {settings.n_clusters} and n_interferers = {settings.n_interferers} takes about "
            f"{_gib(needed)} GiB; this machine has {_gib(there)} GiB"
        )


def _gib(n_bytes: float) -> str:
    """Return bytes in GiB; whole numbers may be beyond any float."""
    return f"{n_bytes / 2**30:.3g}" if n_bytes < 2.0**1000 else "far too many"
