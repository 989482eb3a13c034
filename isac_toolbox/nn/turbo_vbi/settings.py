"""Settings of a compression, checked in one place, and presets (docs/theory-networks.md, sections 1 to 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isac_toolbox._validation import (
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_names,
    check_positive,
)
from isac_toolbox.inference import RULES
from isac_toolbox.nn.turbo_vbi.prior import SUPPORTS, PriorSettings

__all__ = ["PRECISIONS", "CompressionSettings"]

PRECISIONS = ("mixture", "relevance")
#: Probability that a neuron lives where a mapping of gates does not name its layer.
_GATE = 0.5
_COOL = {"temperature": 0.15, "temperature_start": 0.05, "warmup_epochs": 2}
#: Presets by name; `CompressionSettings.preset` says what each is for.
_PRESETS: dict[str, dict[str, Any]] = {
    "chain": _COOL,
    "independent": _COOL | {"support": "independent"},
    "conv": _COOL | {"p01": 0.3, "p11": 0.98, "learn_support": False},
    "aggressive": {
        "temperature": 1.0,
        "temperature_start": 0.1,
        "support_temperature": 0.2,
        "anneal": 0.5,
        "precision": "relevance",
        "variance_growth": 0.28,
        "curvature_decay": 0.9995,
        "learning_rate": 2e-3,
        "warmup_epochs": 2,
        "p01": 0.002,
        "learn_support": False,
    },
}


@dataclass(frozen=True)
class CompressionSettings:
    """How `TurboVBICompressor` trains, and by which prior the engine decides.

    Where nothing else is said, a default comes from the first runs of LeNet-300-100 on Fashion-MNIST (55,000
    images, minibatches of 256), chosen before any tuning.

    Parameters
    ----------
    temperature : float
        `T` of the KL term; 1 is full Bayes, smaller values keep more weights. The runs had 0.05 to 0.2.
    temperature_start : float, optional
        `T` at the start, then geometric to `temperature` over the first `anneal` of the epochs. If not given
        it stays the same.
    support_temperature : float, optional
        `T` of the messages that decide the support, at the end; it moves in proportion to `T`. `temperature`
        if not given. A larger one prunes more, and in longer runs, without more noise in the weights.
    temperature_factors : mapping of str to float
        Factors on `T` by layer, 1 if not named: a larger one where a weight acts often and costs more MACs.
    anneal : float
        Part of the epochs over which `T` moves; the rest lets the support settle.
    precision : {"mixture", "relevance"}
        Prior precision under which the weights train: the engine's average of spike and slab, under which
        weights collapse as they lose their evidence; or automatic relevance determination, ``1 / E[w^2]`` of
        each weight, under which the engine only decides: the support goes into force when the fit ends.
    variance_growth : float, optional
        Largest growth of ``ln sigma^2`` per epoch, unlimited if not given. Noise that grows slowly lets means
        that matter grow with it; the benchmark has 7 over the number of
        epochs with `precision="relevance"`.
    support : {"chain", "independent"}
        Gated Markov chain (groups are output neurons or filters) or independent weights.
    independent_layers : iterable of str
        Layers whose weights are independent, with a learned probability, though the others have a chain.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the engine; the factorised `mean_field` hardly prunes, and shows why the message must
        leave the prior out.
    spike_precision : float
        `rho0`; the default is a standard deviation of 0.003, a tenth of those
        networks' weights.
    gate : float or mapping of str to float
        Probability that a neuron or filter lives; of a mapping, layers that it does not name take 0.5, no
        preference. With `learn_support=False`, ``-ln(gate)`` is the evidence in nats that each neuron must
        bring.
    p01, p11 : float
        Probabilities that a weight is active after an inactive and after an active one, inside a living
        neuron: the start of EM, or fixed. The defaults are runs of 5, and a part of 1/11.
    learn_support : bool
        Whether EM learns the graph's parameters.
    damping : float
        Step on ``ln rho`` per update of the engine; the messages of correlated weights are overconfident.
    moment_matching : bool
        Take the engine's matched precision instead of the average precision.
    warmup_epochs : int
        Epochs before the first update of the engine, while the averages fill.
    updates_per_epoch : int
        Updates of the engine per epoch; between them the weights follow the new precisions.
    learning_rate : float
        Adam, cosine schedule; the default is Adam's usual one.
    curvature_decay : float
        Memory of the averages of gradient and curvature per minibatch; the default remembers 500, about two
        epochs. With `precision="relevance"` the last averages decide, and a longer memory (0.9995) pays.

    Raises
    ------
    TypeError, ValueError
        If a value has the wrong type or range; the message names it.

    Notes
    -----
    Source: docs/theory-networks.md, sections 1 to 4.

    Examples
    --------
    >>> from dataclasses import replace
    >>> settings = replace(CompressionSettings.preset("chain"), learning_rate=2e-3)
    >>> settings.temperature, settings.learning_rate
    (0.15, 0.002)
    """

    temperature: float = 0.1
    temperature_start: float | None = None
    support_temperature: float | None = None
    temperature_factors: Mapping[str, float] = field(default_factory=dict)
    anneal: float = 0.7
    precision: str = "mixture"
    variance_growth: float | None = None
    support: str = "chain"
    independent_layers: Iterable[str] = ()
    rule: str = "extrinsic"
    spike_precision: float = 1e5
    gate: float | Mapping[str, float] = _GATE
    p01: float = 0.02
    p11: float = 0.8
    learn_support: bool = True
    damping: float = 0.3
    moment_matching: bool = False
    warmup_epochs: int = 5
    updates_per_epoch: int = 4
    learning_rate: float = 1e-3
    curvature_decay: float = 0.998

    def __post_init__(self) -> None:
        for name in ("temperature", "spike_precision", "learning_rate"):
            self._set(name, check_positive(name, getattr(self, name)))
        for name in ("temperature_start", "support_temperature", "variance_growth"):
            if getattr(self, name) is not None:
                self._set(name, check_positive(name, getattr(self, name)))
        factors = {} if self.temperature_factors is None else self.temperature_factors
        self._set("temperature_factors", _by_layer("temperature_factors", factors, check_positive))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("support", self.support, SUPPORTS)
        check_choice("rule", self.rule, RULES)
        if isinstance(self.gate, Mapping):
            self._set("gate", _by_layer("gate", self.gate, check_fraction))
        else:
            self._set("gate", check_fraction("gate", self.gate))
        for name in ("p01", "p11", "curvature_decay"):
            self._set(name, check_fraction(name, getattr(self, name)))
        self._set("anneal", check_fraction("anneal", self.anneal, low_open=False, high_open=False))
        self._set("damping", check_fraction("damping", self.damping, high_open=False))
        self._set("warmup_epochs", check_integer("warmup_epochs", self.warmup_epochs, 0))
        self._set("updates_per_epoch", check_integer("updates_per_epoch", self.updates_per_epoch, 1))
        self._set("independent_layers", _names("independent_layers", self.independent_layers))
        check_flag("learn_support", self.learn_support)
        check_flag("moment_matching", self.moment_matching)
        if self.moment_matching and self.precision == "relevance":
            raise ValueError("moment_matching needs precision='mixture', got precision='relevance'")
        if self.moment_matching and self.rule != "extrinsic":
            raise ValueError(f"moment_matching needs rule='extrinsic', got rule={self.rule!r}")

    def _set(self, name: str, value: Any) -> None:
        """Keep a checked value in its plain type."""
        object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str) -> CompressionSettings:
        """Return settings for a purpose.

        Parameters
        ----------
        name : {"chain", "independent", "conv", "aggressive"}
            ``"chain"``: a trained network of linear layers that should lose little accuracy; whole neurons
            go, and what remains lies in runs. ``"independent"``: the same where only the number of weights
            counts. ``"conv"``: convolutions; a fixed chain that prefers whole kernels and filters, because
            only those save MACs. ``"aggressive"``: twenty weights or more go for one that stays; the choice
            is made once, at the end, after 20 epochs or more and without a teacher in the fit, and
            `TurboVBICompressor.keep_at_most` then meets a budget in two or three steps.

        Returns
        -------
        CompressionSettings

        Raises
        ------
        ValueError
            If there is no such preset.

        Notes
        -----
        The temperatures of the first three are those of ``isac nn compress --data digits``; those of
        ``"aggressive"`` come from the benchmark of LeNet-300-100 at 1/50 of the weights, for 25 epochs, with
        a support temperature that also suits small data sets.
        """
        return cls(**_PRESETS[check_choice("preset", name, tuple(_PRESETS))])

    def temperature_at(self, epoch: int, epochs: int) -> float:
        """Return `T` of an epoch: geometric from `temperature_start` to `temperature`."""
        start = self.temperature if self.temperature_start is None else self.temperature_start
        span = self.anneal * max(epochs - 1, 1)
        part = 1.0 if span <= 0 else min(epoch / span, 1.0)
        return start * (self.temperature / start) ** part

    def factor(self, layer: str) -> float:
        """Return the factor on `T` of a layer."""
        return self.temperature_factors.get(layer, 1.0)

    @property
    def support_factor(self) -> float:
        """Temperature of the messages over that of the weights."""
        return (self.support_temperature or self.temperature) / self.temperature

    @property
    def growth_limit(self) -> float:
        """Largest growth of ``ln sigma^2`` per epoch, infinite where it is unlimited."""
        return math.inf if self.variance_growth is None else self.variance_growth

    def prior_of(self, layer: str) -> PriorSettings:
        """Return the start of the prior of one layer."""
        alone = layer in frozenset(self.independent_layers)
        return PriorSettings(
            support="independent" if alone else self.support,
            rule=self.rule,
            spike_precision=self.spike_precision,
            gate=self.gate.get(layer, _GATE) if isinstance(self.gate, Mapping) else self.gate,
            p01=self.p01,
            p11=self.p11,
            learn_support=self.learn_support or alone,
            damping=self.damping,
            moment_matching=self.moment_matching,
        )

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raise a ValueError where a setting names a layer that the model does not have."""
        known = list(layers)
        if isinstance(self.gate, Mapping):
            check_names("gate", self.gate, known)
        check_names("temperature_factors", self.temperature_factors, known)
        check_names("independent_layers", self.independent_layers, known)

    def described(self) -> dict[str, Any]:
        """Return what two runs must share to be the same run, as plain values; defaults are filled in."""
        by_layer = isinstance(self.gate, Mapping)
        return asdict(self) | {
            "temperature_start": self.temperature_start or self.temperature,
            "support_temperature": self.support_temperature or self.temperature,
            "variance_growth": self.growth_limit,
            "gate": _GATE if by_layer else self.gate,
            "gates": dict(self.gate) if isinstance(self.gate, Mapping) else {},
            "independent_layers": sorted(self.independent_layers),
        }


def _by_layer(name: str, values: Any, check: Any) -> dict[str, float]:
    """Numbers by layer, each checked under the name of its layer."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a mapping of names of layers to numbers, got {values!r}")
    return {layer: check(f"{name}[{layer!r}]", value) for layer, value in values.items()}


def _names(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be an iterable of names of layers, got {values!r}")
    return tuple(values)
