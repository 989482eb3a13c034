"""The figures of ``isac figure``: their names, and where their scripts are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["FIGURES", "script_path"]

FIGURES = {
    "scene": "a recovered scene in space and from above, beside the truth",
    "music_spectrum": "MUSIC location spectrum of a block and the coarse candidates",
    "rmse_vs_snr": "localisation error, and how many scatterers are found, over SNR",
    "nmse_vs_snr": "channel error over SNR",
    "ser_vs_snr": "symbol and uncoded bit error rates over SNR",
    "vs_pilots": "positions, channel and data over the number of pilot symbols",
    "vs_users": "positions, channel and data over the number of users that share the scatterers",
    "vs_time_offset": "positions, channel and data over the spread of the clocks",
    "vs_user_error": "positions, channel and data over the error of the nominal user positions",
    "convergence": "channel error per iteration and per second: rules, M-steps, E-steps",
    "time_vs_grid": "time and error over the grid size: working set, full inverse, inverse-free",
    "calibration": "are scatterer probabilities and credible ellipsoids right?",
    "moving": "velocities of users over SNR beside the bound, and channels over their speed",
    "receivers": "what imperfect receivers cost, and what a model of them buys back",
    "range_doppler": "echoes over range and Doppler shift, and the scatterers found in them",
    "tracked_scene": "users and scatterers followed over successive blocks, and the errors beside the bound",
    "munich": "ray-traced Munich: scatterers, users and unlocated paths",
}


def script_path(name: str) -> Path:
    """Return the path of a figure's script: the shipped one, or that of a source checkout."""
    shipped = Path(str(files("isac_toolbox.figures") / "scripts"))
    folder = shipped if shipped.is_dir() else Path(__file__).parents[2] / "figures"
    return folder / f"{name}.py"
