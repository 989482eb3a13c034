"""Pictures of a scene, a pseudo-spectrum, iterations and sweeps; every function returns ``(fig, ax)``.

Nothing here shows a window or writes a file: call ``fig.savefig``. The exceptions are ``scene_html`` and
``track_html``, interactive pages. Colours are those of Okabe and Ito, which colour-blind readers can tell
apart; marker shapes carry the same meaning in greyscale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isac_toolbox.plotting.convergence import convergence
from isac_toolbox.plotting.scene import scene_3d
from isac_toolbox.plotting.spectrum import spectrum_slice
from isac_toolbox.plotting.style import OKABE_ITO
from isac_toolbox.plotting.sweeps import coverage, reliability, sweep_curves

if TYPE_CHECKING:
    from isac_toolbox.plotting.html import scene_html as scene_html
    from isac_toolbox.plotting.html import track_html as track_html

__all__ = [
    "OKABE_ITO",
    "convergence",
    "coverage",
    "reliability",
    "scene_3d",
    "scene_html",
    "spectrum_slice",
    "sweep_curves",
    "track_html",
]


def __getattr__(name: str) -> Any:
    """Import the interactive pages when they are asked for."""
    if name not in ("scene_html", "track_html"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from isac_toolbox.plotting import html

    globals()[name] = page = getattr(html, name)
    return page
