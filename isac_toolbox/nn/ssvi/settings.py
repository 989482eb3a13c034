"""Settings and presets of training on a fixed budget (docs/theory-ssvi.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isac_toolbox._choices import LAYER_DENSITIES, REMOVALS
from isac_toolbox._validation import check_choice, check_flag, check_fraction, check_integer, check_positive
from isac_toolbox.nn.ssvi.sparse_linear import CROSSOVER_DENSITY

__all__ = ["ADDITIONS", "AUTHORS_SETTINGS", "NOISES", "REMOVALS", "SIGMA_STEPS", "STARTS", "SSVISettings"]

NOISES = ("weights", "outputs")
SIGMA_STEPS = ("rho", "sigma")
STARTS = ("random", "model")
ADDITIONS = ("gradient", "random", "structured")
#: Settings in which the code of the authors differs: ``SSVI(model, **AUTHORS_SETTINGS)``.
AUTHORS_SETTINGS = {
    "learning_rate": 0.01,
    "initial_mean_sd": 0.01,
    "prior_sd": 0.005,
    "kl_weight": 0.01,
    "sigma_step": "rho",
}
#: Presets by name; ``SSVISettings.preset`` says what each is for.
_PRESETS: dict[str, dict[str, Any]] = {
    "authors": AUTHORS_SETTINGS,
    "structured": {"removal": "structured", "addition": "structured", "layer_density": "erk"},
    "conv": {"layer_density": "ends_dense", "erk_power": 0.2, "learning_rate": 0.2},
    "uncertainty": {"noise": "outputs", "sigma_step": "sigma", "kl_weight": 0.1},
}


@dataclass(frozen=True)
class SSVISettings:
    """Settings of ``SSVI``: budget, scores, prior and optimiser.

    "The authors" are Li, Miao, Qiu and Zhang, whose code trains ResNets for 200 epochs. Section 5 of
    docs/theory-ssvi.md gives the reasons for defaults that are not theirs.

    Parameters
    ----------
    density : float
        Active part of the weights, in (0, 1]; with the default the benchmarks lose 0.4 to 0.8 points of
        accuracy.
    removal : str
        Score of which the lowest weights are removed: ``"snr"`` (``|mu| / sigma``, the same order as
        ``SNR(|w|)``), ``"magnitude"``, ``"mean_abs"`` (``E|w|``), ``"exp_mean"`` (``E exp(l|w|)``),
        ``"exp_snr"`` (SNR of ``exp(l|w|)``; it decreases with ``|mu|``, so it keeps small weights, and
        warns), or ``"structured"`` (log-odds of a gated chain; with ``addition="structured"``).
    addition : {"gradient", "random", "structured"}
        Which weights are added: those of the largest ``|dL/dmu|`` of one minibatch, random ones, or those of
        the largest log-odds of the chain with the gradient as evidence.
    layer_density : {"uniform", "erk", "first_layer_dense", "ends_dense"}
        Density of each layer; with the last two, the first layer, or the first and the last one, are dense,
        and the true density is higher. The last layer of a convolutional network is a small part of it, and
        is better kept dense.
    erk_power : float, optional
        Power of the Erdos-Renyi ratio with ``"erk"`` (1 if not given, as in the literature) and among the
        sparse layers of the last two rules (0 if not given). A smaller one costs fewer operations, because
        the small first convolutions, which it makes sparser, have the most positions.
    replace_fraction : float
        ``alpha``, the part of the active weights that the first change replaces, as of the authors.
    update_interval : int
        Steps between changes of the support, as of the authors.
    update_until : float
        Part of the steps after which the support is fixed, as of the authors.
    exp_rate : float
        ``l`` of the exponential scores.
    p11, gate : float
        Chain of the structured score: probability that an active weight follows an active one (with the
        default the mean run is 5, as in ``CompressionSettings``), and that a neuron or filter is kept (0.5 is
        no preference).
    prior_sd, kl_weight : float
        Prior standard deviation, and weight of the KL term ``(kl_weight / N) min(1, 2 epoch / epochs) KL``.
        The authors have a standard deviation of 0.005, which suits weights of that size in wide networks.
    learning_rate, momentum, weight_decay : float
        SGD with a cosine schedule; no decay of sigma. The authors have a rate of 0.01.
    start : {"random", "model"}
        Support and means at the start: random, or the largest weights of each layer of the given, trained
        network. A smaller ``learning_rate`` (0.01) then forgets less of it.
    initial_mean_sd : float, optional
        Standard deviation of the means at the start. If not given, ``sqrt(2 / active inputs)`` of each layer;
        the authors have 0.01, with which a network without normalisation layers does not start to learn.
        Not with ``start="model"``.
    initial_sigma : float
        Sigma at the start, ``softplus(rho)``, as of the authors.
    sparse_below : float
        Density below which Linear layers on the CPU use the sparse product; 0 means never. Below the default
        it was faster than the product with the full matrix (``benchmarks/nn/ssvi_crossover.py``).
    noise : {"weights", "outputs"}
        One draw of the weights per minibatch, or, in Linear layers, one draw of every output (local
        reparameterisation), which takes two products and has far less noisy gradients if sigma is large.
    sigma_step : {"rho", "sigma"}
        Gradient descent in ``rho`` as of the authors, in which a small sigma hardly moves, so that the drawn
        networks hardly differ, or in sigma itself, by at most 1 % of it per gradient; with the latter the
        result hardly depends on ``initial_sigma``.
    posterior : bool
        Whether weights have a sigma. Without it they are point estimates, every score is ``|w|``, and there
        is no KL term.

    Raises
    ------
    TypeError, ValueError
        If a value has the wrong type or range; the message names it.

    Notes
    -----
    Source: docs/theory-ssvi.md, sections 1 to 6.

    Examples
    --------
    >>> from dataclasses import replace
    >>> settings = replace(SSVISettings.preset("structured"), density=0.1)
    >>> settings.removal, settings.density
    ('structured', 0.1)
    """

    density: float = 0.05
    removal: str = "snr"
    addition: str = "gradient"
    layer_density: str = "uniform"
    erk_power: float | None = None
    replace_fraction: float = 0.3
    update_interval: int = 100
    update_until: float = 0.75
    exp_rate: float = 1.0
    p11: float = 0.8
    gate: float = 0.5
    prior_sd: float = 0.1
    kl_weight: float = 0.01
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    start: str = "random"
    initial_mean_sd: float | None = None
    initial_sigma: float = 6e-4
    sparse_below: float = CROSSOVER_DENSITY
    noise: str = "weights"
    sigma_step: str = "sigma"
    posterior: bool = True

    def __post_init__(self) -> None:
        self._set("density", check_fraction("density", self.density, high_open=False))
        check_choice("removal", self.removal, REMOVALS)
        check_choice("addition", self.addition, ADDITIONS)
        check_choice("noise", self.noise, NOISES)
        check_choice("start", self.start, STARTS)
        check_choice("sigma_step", self.sigma_step, SIGMA_STEPS)
        check_choice("layer_density", self.layer_density, LAYER_DENSITIES)
        for name in ("replace_fraction", "update_until", "sparse_below"):
            self._set(name, check_fraction(name, getattr(self, name), low_open=False, high_open=False))
        self._set("update_interval", check_integer("update_interval", self.update_interval, 1))
        for name in ("exp_rate", "prior_sd", "learning_rate", "initial_sigma"):
            self._set(name, check_positive(name, getattr(self, name)))
        if self.initial_mean_sd is not None:
            self._set("initial_mean_sd", check_positive("initial_mean_sd", self.initial_mean_sd))
            if self.start == "model":
                raise ValueError("initial_mean_sd goes with start='random', got start='model'")
        for name in ("p11", "gate"):
            self._set(name, check_fraction(name, getattr(self, name)))
        for name in ("kl_weight", "weight_decay"):
            self._set(name, _zero_or_positive(name, getattr(self, name)))
        self._set("momentum", check_fraction("momentum", self.momentum, low_open=False))
        check_flag("posterior", self.posterior)
        if self.erk_power is not None:
            if self.layer_density == "uniform":
                raise ValueError(
                    "erk_power needs layer_density='erk', 'first_layer_dense' or 'ends_dense', "
                    f"got erk_power={self.erk_power!r} with 'uniform'"
                )
            self._set("erk_power", _zero_or_positive("erk_power", self.erk_power))
        if (self.addition == "structured") != (self.removal == "structured"):
            raise ValueError(
                "removal='structured' and addition='structured' go together, "
                f"got removal={self.removal!r} and addition={self.addition!r}"
            )

    def _set(self, name: str, value: Any) -> None:
        """Keep a checked value in its plain type."""
        object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str) -> SSVISettings:
        """Return settings for a purpose.

        Parameters
        ----------
        name : {"authors", "structured", "conv", "uncertainty"}
            ``"authors"``: the settings of the authors' code, for many epochs of a network with normalisation
            layers. ``"structured"``: active weights form long runs, small layers are denser. ``"conv"``:
            convolutional networks with normalisation layers; first and last layer are dense, the first
            convolutions cost few operations. ``"uncertainty"``: sigma is learned from any start, for
            out-of-distribution detection with drawn networks.

        Returns
        -------
        SSVISettings

        Raises
        ------
        ValueError
            If there is no such preset.

        Notes
        -----
        ``"conv"`` is the benchmark of the narrow ResNet-18. ``"uncertainty"`` is that of LeNet-300-100 with
        the best area under the ROC curve for less than one point of accuracy.
        """
        return cls(**_PRESETS[check_choice("preset", name, tuple(_PRESETS))])


def _zero_or_positive(name: str, value: Any) -> float:
    return 0.0 if value == 0.0 and not isinstance(value, bool) else check_positive(name, value)
