"""The highest temperature whose masked network holds (docs/theory-networks.md, section 5.5)."""

from __future__ import annotations

import math
from typing import Any

from isac_toolbox.nn.turbo_vbi.trials import Trials

__all__ = ["TemperatureSearch"]

#: Guard: how many times the allowed loss a network may show before it has settled.
_SLACK = 5.0
#: Temperature of the first update, relative to that of the settings.
_START = 0.3
#: Guard: highest temperature, relative to that of the settings, which the last update reaches if all hold.
_HIGHEST = 3.0
#: Guard: largest and least factor by which the temperature rises.
_MOST_GROWTH, _LEAST_GROWTH = 2.0, 1.02
#: Guard: factor by which it falls with every update in a row that does not hold.
_BACK = 1.3
#: First update: factor by which the temperature falls, how often, and steps of the bisection that follows.
_FALL, _N_FALLS, _N_BISECTIONS = 4.0, 5, 2
_STATES = ("good", "strict")
_VALUES = ("temperature", "growth", "n_updates", "n_failures", "found", "part_kept")


class TemperatureSearch:
    """Calls the engine at rising temperatures, and takes back what does not hold.

    The network of the means under the engine's mask may lose a few times what is allowed, because it settles
    afterwards. At the first update the highest temperature at which it loses no more is found by bisection,
    without training. From there the temperature rises geometrically. After an update that does not hold, the
    state of the last good one comes back, the temperature falls below that one, further with every failure
    in a row, and rises more slowly from there. Where no temperature holds at first, the noise of the
    posterior has already cost too much: the means of the reference come back, with less noise.

    Parameters
    ----------
    trials : Trials
        Measures networks.

    Attributes
    ----------
    good, strict : dict
        State of the last update that held for a few times the allowed loss, and for that loss itself.
    part_kept : float
        Part of the weights of ``good`` that its mask keeps.
    """

    def __init__(self, trials: Trials) -> None:
        self.trials, self.compressor, self.watch = trials, trials.compressor, trials.watch
        self.start(1)

    def start(self, n_updates: int) -> None:
        """Start at the network as it is, before so many updates."""
        self.good: dict[str, Any] = self.compressor.posterior_state()
        self.strict = self.good
        self.temperature = _START * self.compressor.settings.temperature
        self.n_updates, self.growth, self.n_failures = n_updates, 1.0, 0
        self.found, self.part_kept = False, 1.0

    def update(self, temperature: float, size: int) -> None:
        """Call the engine at a temperature, or at the highest below it that holds."""
        self.n_updates -= 1
        if not self.found:
            self._find(temperature, size)
        elif self._holds_at(temperature, size):
            self.n_failures = 0
            self._rise(temperature)
        else:
            self.n_failures += 1
            self.compressor.load_posterior(self.good)
            self.growth = max(math.sqrt(self.growth), _LEAST_GROWTH)
            self.temperature /= self.growth * _BACK**self.n_failures

    def _rise(self, temperature: float) -> None:
        """Raise the temperature from one that held."""
        self.temperature = min(temperature * self.growth, self._highest)

    @property
    def _highest(self) -> float:
        return _HIGHEST * self.compressor.settings.temperature

    def _find(self, temperature: float, size: int) -> None:
        """Bisect the temperature of the first update."""
        before = self.compressor.prior_state()
        tried = [temperature / _FALL**i for i in range(_N_FALLS + 1)]
        n_bad = next((i for i, t in enumerate(tried) if self._holds_at(t, size, before)), None)
        if n_bad is None:
            averages = self.compressor.posterior_state()["curvatures"]
            self.compressor.load_posterior(self.good | {"curvatures": averages})
            self.temperature = temperature / _FALL**2
            return
        last = good = tried[n_bad]
        bad = tried[n_bad - 1] if n_bad else math.nan
        for _ in range(_N_BISECTIONS if n_bad else 0):
            last = math.sqrt(good * bad)
            good, bad = (last, bad) if self._holds_at(last, size, before) else (good, last)
        if last != good:
            self._holds_at(good, size, before)
        self.found = True
        self.growth = min(max(self._highest / good, 1.0) ** (1.0 / max(self.n_updates, 1)), _MOST_GROWTH)
        self._rise(good)

    def _holds_at(self, temperature: float, size: int, before: dict[str, Any] | None = None) -> bool:
        """Call the engine, and keep the state if the masked network holds."""
        compressor = self.compressor
        if before is not None:
            compressor.load_priors(before)
        compressor._update_priors(temperature, size)
        support = compressor.support()
        verdict = self.trials.verdict(support)
        if verdict.bound(1.0) > self.watch.times(_SLACK):
            return False
        self.good = compressor.posterior_state()
        self.strict = self.good if verdict.bound() <= self.watch.max_loss_drop else self.strict
        self.part_kept = sum(int(mask.sum()) for mask in support.values()) / self.trials.n_weights
        return True

    # ---- checkpoint ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {name: getattr(self, name) for name in (*_STATES, *_VALUES)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, value)
