"""The manual's picture of the interactive page, taken in headless Chromium.

python docs/images/scene_html.py
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import isac_toolbox as isac
from isac_toolbox import plotting

SCENARIO, SEED, SNR_DB = "traced_munich", 3, 15.0
PICTURE = Path(__file__).with_suffix(".png")
WIDTH, HEIGHT = 1400, 860
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
)


def main() -> None:
    """The page of ``isac estimate traced_munich --seed 3 --snr-db 15 --html scene.html``, as a picture."""
    simulation = isac.Scenario.load(SCENARIO).replace(snr_db=SNR_DB).simulate(SEED)
    recorder = isac.estimators.SceneRecorder()
    result = isac.EMTurboBiSVBI().estimate(simulation.observation, callback=recorder)
    page = plotting.scene_html(
        result,
        simulation.truth,
        observation=simulation.observation,
        recording=recorder,
        title=f"{SCENARIO}, seed {SEED}, SNR {SNR_DB:g} dB",
    )
    # a fixed height, as the browser changes that of its window when it takes the picture
    take_picture(page.replace("height: 100%", f"height: {HEIGHT}px", 1))


def take_picture(page: str) -> None:
    """Let Chromium draw the page into ``docs/images``."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "scene.html"
        source.write_text(page, encoding="utf-8")
        options = [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}"]
        orders = ["--virtual-time-budget=60000", f"--screenshot={PICTURE}", source.as_uri()]
        subprocess.run(["chromium", *SWITCHES, *options, *orders], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
