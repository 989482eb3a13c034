"""Settings and presets of a compression (docs/theory-networks.md, sections 1 to 4)."""

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
#: Probability that a neuron is kept, where a mapping of gates does not name its layer.
_GATE = 0.5
_TEMPERATURE = 0.1
#: Guard: largest loss where none is given, in points of accuracy or as a part of the loss.
_MAX_LOSS_DROP = 0.01
_COOL = {
    "temperature": 0.15,
    "temperature_start": 0.05,
    "warmup_epochs": 2,
    "max_loss_drop": _MAX_LOSS_DROP,
}
#: Presets by name; ``CompressionSettings.preset`` says what each is for.
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
        "max_loss_drop": None,
    },
}


@dataclass(frozen=True)
class CompressionSettings:
    """Settings of ``TurboVBICompressor``: temperatures, prior and schedule.

    Most defaults are those of the first runs of LeNet-300-100 on Fashion-MNIST (minibatches of 256), which
    were not tuned.

    Parameters
    ----------
    temperature : float
        ``T`` of the KL term; 1 is full Bayes, smaller values keep more weights. The first runs had 0.05 to
        0.2.
    temperature_start : float, optional
        ``T`` at the start, from which it moves geometrically to ``temperature`` over the first ``anneal`` of
        the epochs; constant if not given.
    support_temperature : float, optional
        Final ``T`` of the messages that decide the support; it moves in proportion to ``T``. The same as
        ``temperature`` if not given. A larger one prunes more, in longer runs, without more noise in the
        weights.
    temperature_factors : mapping of str to float
        Factors on ``T`` by layer, 1 by default; larger ones for layers whose weights cost more MACs.
    anneal : float
        Part of the epochs over which ``T`` moves; in the rest the support settles.
    precision : {"mixture", "relevance"}
        Prior precision in training. ``"mixture"``: the engine's average of spike and slab, which pulls
        weights without evidence to zero during the fit. ``"relevance"``: automatic relevance determination,
        ``1 / E[w^2]`` of each weight; the support of the engine is applied at the end of the fit.
    variance_growth : float, optional
        Largest growth of ``ln sigma^2`` per epoch, unlimited if not given. When the noise grows slowly,
        important means can grow with it. The benchmark has 7 over the number of epochs with
        ``precision="relevance"``.
    support : {"chain", "independent"}
        Gated Markov chain, whose groups are output neurons or filters, or independent weights.
    independent_layers : iterable of str
        Layers with independent weights, whose probability is learned, while the others have a chain.
    block : int or (int, int)
        Rows and columns of the blocks that stay or leave as a whole, in the matrix of a layer with a row per
        output (a convolution: per filter, all its inputs and kernel positions in a row); one number for
        square blocks, 1 for single weights. The graph decides over blocks. ``BlockSparseLinear`` is fast with
        square blocks of 4 and 8.
    n_of_m : (int, int), optional
        At most so many of so many neighbours in a row stay, such as (2, 4), in place of ``support``.
    gate_rows : mapping of str to int
        Rows that share a gate, by layer, 1 by default: with the width of a head, the heads of an attention
        stay or leave as a whole. With blocks, rows of blocks.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the engine. The factorised rule ``"mean_field"`` hardly prunes: its message contains
        the prior (docs/theory-networks.md, section 4.3).
    spike_precision : float
        ``rho0``; the default is a standard deviation of 0.003, about a tenth of that of the weights.
    gate : float or mapping of str to float
        Probability that a neuron or filter is kept. Layers that a mapping does not name have 0.5, which is no
        preference. With ``learn_support=False``, ``-ln(gate)`` is the evidence in nats that each neuron
        needs.
    p01, p11 : float
        Probabilities that a weight is active after an inactive and after an active one, in a kept neuron;
        start values if they are learned. With the defaults the mean run is 5, and 1/11 of the weights is
        active.
    learn_support : bool
        Whether EM learns the graph's parameters.
    damping : float
        Step on ``ln rho`` per update of the engine, because messages of correlated weights are overconfident.
    moment_matching : bool
        Whether the engine's matched precision is used instead of the average precision.
    warmup_epochs : int
        Epochs before the first update of the engine, while the averages fill.
    updates_per_epoch : int
        Updates of the engine per epoch; between two of them the weights adapt to the new precisions.
    learning_rate : float
        Learning rate of Adam with a cosine schedule; the default is the usual one of Adam.
    curvature_decay : float
        Factor on the averages of gradient and curvature per minibatch; with the default they extend over 500
        minibatches, about two epochs. With ``precision="relevance"`` the last averages decide, and 0.9995 is
        better.
    max_loss_drop : float, None or "auto"
        Most that the result may lose on the validation set (without one, on a part of the training set that
        is held back) against the given network or, if that is untrained, against one that is trained first:
        points of accuracy (0.01) or of the metric, and where there is neither, that part of the loss. The
        fit then adapts the temperature and ends with a fine-tuning of what is kept. None: the temperature
        is taken at its word. ``"auto"``: 0.01 with the default temperatures and ``precision="mixture"``, None
        where a temperature of one's own is given.

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

    temperature: float = _TEMPERATURE
    temperature_start: float | None = None
    support_temperature: float | None = None
    temperature_factors: Mapping[str, float] = field(default_factory=dict)
    anneal: float = 0.7
    precision: str = "mixture"
    variance_growth: float | None = None
    support: str = "chain"
    independent_layers: Iterable[str] = ()
    block: int | tuple[int, int] = 1
    n_of_m: tuple[int, int] | None = None
    gate_rows: Mapping[str, int] = field(default_factory=dict)
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
    max_loss_drop: float | str | None = "auto"

    def __post_init__(self) -> None:
        for name in ("temperature", "spike_precision", "learning_rate"):
            self._set(name, check_positive(name, getattr(self, name)))
        for name in ("temperature_start", "support_temperature", "variance_growth"):
            if getattr(self, name) is not None:
                self._set(name, check_positive(name, getattr(self, name)))
        if self.max_loss_drop is not None and self.max_loss_drop != "auto":
            if isinstance(self.max_loss_drop, str):
                check_choice("max_loss_drop", self.max_loss_drop, ("auto",))
            self._set("max_loss_drop", check_positive("max_loss_drop", self.max_loss_drop))
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
        self._check_patterns()
        check_flag("learn_support", self.learn_support)
        check_flag("moment_matching", self.moment_matching)
        if self.moment_matching and self.precision == "relevance":
            raise ValueError("moment_matching needs precision='mixture', got precision='relevance'")
        if self.moment_matching and self.rule != "extrinsic":
            raise ValueError(f"moment_matching needs rule='extrinsic', got rule={self.rule!r}")

    def _set(self, name: str, value: Any) -> None:
        """Keep a checked value in its plain type."""
        object.__setattr__(self, name, value)

    def _check_patterns(self) -> None:
        """Check blocks, neighbours and gates."""
        sides = (self.block, self.block) if isinstance(self.block, int) else _pair("block", self.block)
        self._set("block", tuple(check_integer("block", side, 1) for side in sides))
        self._set("gate_rows", _by_layer("gate_rows", self.gate_rows, check_integer))
        if self.n_of_m is None:
            return
        n, m = (check_integer("n_of_m", value, 1) for value in _pair("n_of_m", self.n_of_m))
        if n >= m:
            raise ValueError(f"n_of_m must have n < m, such as (2, 4), got {self.n_of_m!r}")
        if self.block != (1, 1) or self.gate_rows:
            raise ValueError(
                f"n_of_m goes with block=1 and without gate_rows, got {self.block!r}, {self.gate_rows!r}"
            )
        self._set("n_of_m", (n, m))

    @classmethod
    def preset(cls, name: str) -> CompressionSettings:
        """Return settings for a purpose.

        Parameters
        ----------
        name : {"chain", "independent", "conv", "aggressive"}
            ``"chain"``: trained networks of linear layers, for little loss of accuracy; whole neurons are
            removed, and kept weights form runs. ``"independent"``: the same if only the number of weights
            counts. ``"conv"``: convolutional networks; a fixed chain prefers whole kernels and filters,
            which save MACs. ``"aggressive"``: to keep one of twenty weights or fewer; the support is applied
            after a fit of 20 epochs or more without a teacher, and ``TurboVBICompressor.keep_at_most`` then
            meets a budget in two or three steps.

        Returns
        -------
        CompressionSettings

        Raises
        ------
        ValueError
            If there is no such preset.

        Notes
        -----
        The temperatures of the first three are those of ``isac nn compress --data digits``. ``"aggressive"``
        is the benchmark of LeNet-300-100 at 1/50 of the weights and 25 epochs, with a support temperature
        that suits small data sets as well.
        """
        return cls(**_PRESETS[check_choice("preset", name, tuple(_PRESETS))])

    def temperature_at(self, epoch: int, epochs: int) -> float:
        """Return ``T`` of an epoch: geometric from ``temperature_start`` to ``temperature``."""
        start = self.temperature if self.temperature_start is None else self.temperature_start
        span = self.anneal * max(epochs - 1, 1)
        part = 1.0 if span <= 0 else min(epoch / span, 1.0)
        return start * (self.temperature / start) ** part

    @property
    def allowed_loss(self) -> float | None:
        """Return the largest loss that is allowed, None without a guard."""
        if self.max_loss_drop is None or not isinstance(self.max_loss_drop, str):
            return self.max_loss_drop
        own = self.temperature != _TEMPERATURE or (self.temperature_start, self.support_temperature) != (
            None,
            None,
        )
        return None if own or self.precision != "mixture" else _MAX_LOSS_DROP

    def factor(self, layer: str) -> float:
        """Return the factor on ``T`` of a layer."""
        return self.temperature_factors.get(layer, 1.0)

    @property
    def support_factor(self) -> float:
        """Return the temperature of the messages over that of the weights."""
        return (self.support_temperature or self.temperature) / self.temperature

    @property
    def growth_limit(self) -> float:
        """Return the largest growth of ``ln sigma^2`` per epoch, infinite if unlimited."""
        return math.inf if self.variance_growth is None else self.variance_growth

    def prior_of(self, layer: str) -> PriorSettings:
        """Return the settings of the prior of one layer."""
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
            block=self.block,  # type: ignore[arg-type]  # a pair since it was checked
            n_of_m=self.n_of_m,
            gate_rows=self.gate_rows.get(layer, 1),
        )

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raise a ValueError if a setting names a layer that the model does not have."""
        known = list(layers)
        if isinstance(self.gate, Mapping):
            check_names("gate", self.gate, known)
        check_names("temperature_factors", self.temperature_factors, known)
        check_names("independent_layers", self.independent_layers, known)
        check_names("gate_rows", self.gate_rows, known)

    def described(self) -> dict[str, Any]:
        """Return plain values of all settings, with defaults filled in, as a checkpoint stores them."""
        by_layer = isinstance(self.gate, Mapping)
        return asdict(self) | {
            "temperature_start": self.temperature_start or self.temperature,
            "support_temperature": self.support_temperature or self.temperature,
            "variance_growth": self.growth_limit,
            "max_loss_drop": self.allowed_loss,
            "gate": _GATE if by_layer else self.gate,
            "gates": dict(self.gate) if isinstance(self.gate, Mapping) else {},
            "independent_layers": sorted(self.independent_layers),
        }


def _by_layer(name: str, values: Any, check: Any) -> dict[str, float]:
    """Return numbers by layer; an error names the layer."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a mapping of names of layers to numbers, got {values!r}")
    return {layer: check(f"{name}[{layer!r}]", value) for layer, value in values.items()}


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return two values."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be two integers, got {value!r}")
    return value[0], value[1]


def _names(name: str, values: Any) -> tuple[str, ...]:
    """Return names of layers as a tuple."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be an iterable of names of layers, got {values!r}")
    return tuple(values)
