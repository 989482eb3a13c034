"""Settings of training on a fixed budget, checked in one place (docs/theory-ssvi.md, sections 2 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

from isac_toolbox._choices import REMOVALS
from isac_toolbox._validation import check_choice, check_fraction, check_integer, check_positive
from isac_toolbox.nn.ssvi.budget import LAYER_DENSITIES
from isac_toolbox.nn.ssvi.sparse_linear import CROSSOVER_DENSITY

__all__ = ["ADDITIONS", "NOISES", "REMOVALS", "SIGMA_STEPS", "SparseSettings"]

NOISES = ("weights", "outputs")
SIGMA_STEPS = ("rho", "sigma")
ADDITIONS = ("gradient", "random", "structured")


@dataclass(frozen=True)
class SparseSettings:
    """Everything that two runs must share to be the same run; meanings as in `SSVI`.

    `posterior` says whether the weights have a sigma at all.
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
    initial_mean_sd: float | None = None
    initial_sigma: float = 6e-4
    sparse_below: float = CROSSOVER_DENSITY
    noise: str = "weights"
    sigma_step: str = "rho"
    posterior: bool = True

    def __post_init__(self) -> None:
        check_fraction("density", self.density, high_open=False)
        check_choice("removal", self.removal, REMOVALS)
        check_choice("addition", self.addition, ADDITIONS)
        check_choice("noise", self.noise, NOISES)
        check_choice("sigma_step", self.sigma_step, SIGMA_STEPS)
        check_choice("layer_density", self.layer_density, LAYER_DENSITIES)
        check_fraction("replace_fraction", self.replace_fraction, low_open=False, high_open=False)
        check_integer("update_interval", self.update_interval, 1)
        check_fraction("update_until", self.update_until, low_open=False, high_open=False)
        for name in ("exp_rate", "prior_sd", "learning_rate", "initial_sigma"):
            check_positive(name, getattr(self, name))
        if self.initial_mean_sd is not None:
            check_positive("initial_mean_sd", self.initial_mean_sd)
        if self.erk_power is not None:
            if self.layer_density == "uniform":
                raise ValueError(
                    "erk_power needs layer_density='erk', 'first_layer_dense' or 'ends_dense', "
                    f"got erk_power={self.erk_power!r} with 'uniform'"
                )
            if self.erk_power != 0.0:
                check_positive("erk_power", self.erk_power)
        for name in ("p11", "gate"):
            check_fraction(name, getattr(self, name))
        for name in ("kl_weight", "weight_decay"):
            if getattr(self, name) != 0.0:
                check_positive(name, getattr(self, name))
        check_fraction("momentum", self.momentum, low_open=False)
        check_fraction("sparse_below", self.sparse_below, low_open=False, high_open=False)
        if (self.addition == "structured") != (self.removal == "structured"):
            raise ValueError(
                "removal='structured' and addition='structured' go together, "
                f"got removal={self.removal!r} and addition={self.addition!r}"
            )
