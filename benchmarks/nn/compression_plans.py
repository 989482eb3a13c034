"""Epochs, points and candidates of `compression.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METHODS = (
    "dense",
    "dense-start",
    "turbo-chain",
    "magnitude-iterative",
    "turbo-independent",
    "torch-pruning",
    "group-lasso",
    "sparse-vd",
    "magnitude-one-shot",
)


@dataclass(frozen=True)
class Point:
    """One degree of compression with one support.

    `chain` holds gate, p01 and p11 of a chain that prefers few neurons and long runs; it is fixed, because EM
    would give part of the structure up for single weights. Without it the support is independent. The
    temperature starts at `start`; `moved_epochs` of fine-tuning go to compression. The least certain weights
    leave until at most `weights` are left; each of `steps` is a larger budget that comes first, with its
    epochs of fine-tuning. `precision`, `variance_growth`, `curvature_decay` and `independent_layers` are the
    compressor's, `learning_rate` and `distillation` those of its fit, which has no teacher with 0. With
    `mac_nats` the chain's gates charge filters by MACs, and the temperature rises until at most `stop` times
    `macs` are left; whole filters then meet `macs`.
    """

    temperature: float
    start: float
    chain: tuple[float, float, float] | None = None
    moved_epochs: int = 0
    support_temperature: float | None = None
    weights: int | None = None
    mac_nats: float | None = None
    temperature_factors: dict[str, float] | None = None
    macs: int | None = None
    stop: float = 1.5
    precision: str = "mixture"
    variance_growth: float | None = None
    anneal: float = 0.7
    curvature_decay: float = 0.998
    learning_rate: float = 1e-3
    distillation: float = 0.5
    independent_layers: tuple[str, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()

    @property
    def method(self) -> str:
        """Name among `METHODS`."""
        return "turbo-independent" if self.chain is None else "turbo-chain"

    def graph(self) -> dict[str, Any]:
        """Arguments of the support graph."""
        if self.chain is None:
            return {"support": "independent"}
        gate, p01, p11 = self.chain
        fixed = {"support": "chain", "gate": gate, "p01": p01, "p11": p11, "learn_support": False}
        return fixed | {"independent_layers": self.independent_layers}


@dataclass(frozen=True)
class Plan:
    """Epochs and points of one network."""

    dense_epochs: int
    compress_epochs: int
    finetune_epochs: int
    points: dict[str, list[Point]]

    @property
    def epochs(self) -> int:
        """All epochs of a run."""
        return self.dense_epochs + self.compress_epochs + self.finetune_epochs

    def settings(self, point: str, method: str) -> Point:
        """Settings of a Turbo-VBI method at a point."""
        return next(one for one in self.points[point] if one.method == method)


#: Settings under which the engine decides at the end, shared by the points that use them.
_LATE: dict[str, Any] = {
    "precision": "relevance",
    "variance_growth": 0.28,
    "anneal": 0.5,
    "curvature_decay": 0.9995,
    "learning_rate": 2e-3,
    "distillation": 0.0,
}
_FIRST_LAYER: dict[str, Any] = {"independent_layers": ("fc2", "fc3")}
_STEPS: dict[str, Any] = {"steps": ((7_000, 5), (6_000, 5))}
_FACTORS = {"conv1": 32.0, "conv2": 4.3}
PLANS = {
    "lenet-300-100": Plan(
        *(15, 25, 30),
        {
            "20x": [
                Point(0.5, 0.05, (1e-100, 0.007, 0.88), 0, 0.183, 12_500, **_LATE, **_FIRST_LAYER),
                Point(1.0, 0.1, None, 0, 0.12, **_LATE),
            ],
            "50x": [
                Point(1.0, 0.1, (0.5, 0.002, 0.8), 0, 0.45, 5_200, **_LATE, **_FIRST_LAYER, **_STEPS),
                Point(1.0, 0.1, None, 0, 0.24, **_LATE),
            ],
        },
    ),
    "lenet-5": Plan(
        *(20, 7, 28), {"8x": [Point(0.3, 0.08, (0.5, 0.3, 0.98), 0, None, None, 700.0, _FACTORS, 286_000)]}
    ),
}
#: The last training images, kept for choices, and groups of candidates for which more are kept.
N_VALIDATION, MORE_VALIDATION = 5_000, {"fine": 15_000}
#: What `--select` compares: the gate's and the chain's strength, the temperatures and how they start; for
#: LeNet-5 the charge per MAC and where the fit stops. The best validation accuracy wins, at 20x among those
#: with at least 21 times fewer weights, at most 58 neurons and runs of at least 6.2, at 50x among those with
#: runs three times as long as those of sparse variational dropout (1.44). The last choice of both points has
#: 45,000 training images (`fine`); its support temperature grows in proportion to them. Test figures of
#: earlier settings were known when the last ones of both points were chosen; the last three of `fine` were
#: also compared with seed 7.
CANDIDATES = {
    "lenet-300-100": {
        "20x": [
            Point(0.5, 0.005, (1e-100, 0.01, 0.88), 8),
            Point(0.4, 0.005, (1e-100, 0.01, 0.84), 8),
            Point(0.4, 0.005, (1e-100, 0.015, 0.82), 8),
            Point(0.5, 0.05, (1e-100, 0.01, 0.86), 8),
            Point(0.45, 0.05, (1e-100, 0.01, 0.86), 8),
            Point(0.48, 0.005, (1e-100, 0.01, 0.86), 8),
            Point(0.15, 0.015, (1e-100, 0.01, 0.86), 0, 0.5, 9_800),
            Point(0.06, 0.01, None, 0, 0.18, 9_800),
        ],
        "50x": [
            Point(1.5, 0.05, (0.5, 0.004, 0.8), 8),
            Point(1.5, 0.05, (1e-10, 0.004, 0.8), 8),
            Point(1.5, 0.005, (0.5, 0.002, 0.8), 8),
            Point(2.8, 0.05, (1e-25, 0.0012, 0.88)),
            Point(1.85, 0.005, (0.5, 0.002, 0.8), 8),
            Point(1.7, 0.005, (0.5, 0.004, 0.8), 8),
            Point(0.35, 0.005, (0.5, 0.002, 0.8), 0, 1.4, 5_200),
            Point(0.35, 0.005, (0.5, 0.002, 0.8), 0, 1.75, 5_200),
            Point(0.2, 0.003, (0.5, 0.002, 0.8), 0, 1.4, 5_200),
            Point(0.1, 0.0003, (0.5, 0.002, 0.8), 0, 1.4, 5_200),
            Point(0.7, 0.005, (0.5, 0.002, 0.8), 0, None, 5_200),
            Point(0.35, 0.005, (0.5, 0.002, 0.8), 0, None, 5_200),
            Point(1.0, 0.005, None, 0, None, 5_200),
            Point(0.35, 0.005, None, 0, None, 5_200),
            Point(0.35, 0.005, None, 0, 0.875, 5_200),
            Point(0.15, 0.005, None, 0, 0.6, 5_200),
        ],
        "fine": [
            Point(0.35, 0.005, (0.5, 0.002, 0.8), 0, 1.4, 5_200),
            Point(0.35, 0.005, (0.5, 0.002, 0.72), 0, 1.05, 5_200, learning_rate=2e-3),
            *(
                Point(0.35, 0.005, (0.5, 0.002, p11), 0, 1.05, 5_200, learning_rate=2e-3, distillation=0.8)
                for p11 in (0.72, 0.76, 0.8)
            ),
            Point(0.35, 0.005, (0.5, 0.002, 0.8), 0, 0.77, 5_200, learning_rate=4e-3, distillation=0.8),
            *(
                Point(
                    *(0.35, 0.005, (0.5, 0.002, p11), 0, support, 5_200),
                    learning_rate=2e-3,
                    distillation=0.8,
                    independent_layers=("fc2", "fc3"),
                )
                for p11, support in ((0.84, 1.05), (0.86, 1.26))
            ),
            *(
                Point(1.0, 0.1, (0.5, 0.002, p11), 0, support, 5_200, **_LATE, **_FIRST_LAYER)
                for p11, support in ((0.84, 0.35), (0.86, 0.35), (0.86, 0.45))
            ),
            Point(1.0, 0.1, None, 0, 0.2, 5_200, **_LATE),
            Point(1.0, 0.1, None, 0, 0.1, 9_800, **_LATE),
            *(
                Point(final, final / 10, (gate, 0.007, p11), 0, support, 12_500, **_LATE, **_FIRST_LAYER)
                for final, gate, p11, support in (
                    (1.0, 1e-60, 0.88, 0.18),
                    (1.0, 1e-80, 0.88, 0.15),
                    (0.5, 1e-70, 0.88, 0.15),
                    (0.5, 1e-100, 0.88, 0.15),
                    (0.5, 1e-90, 0.86, 0.17),
                    (0.7, 1e-100, 0.86, 0.15),
                    (0.5, 1e-120, 0.86, 0.13),
                )
            ),
            Point(1.0, 0.1, None, 0, 0.1, 12_500, **_LATE),
            Point(0.7, 0.07, None, 0, 0.08, 12_500, **_LATE),
            *(
                Point(1.0, 0.1, (0.5, p01, p11), 0, support, 5_200, **_LATE, **_FIRST_LAYER, **_STEPS)
                for p01, p11, support in ((0.002, 0.84, 0.35), (0.003, 0.84, 0.35), (0.002, 0.8, 0.37))
            ),
        ],
    },
    "lenet-5": {
        "8x": [
            Point(0.3, 0.08, (0.5, 0.3, 0.98), 0, None, None, nats, _FACTORS, 286_000, stop)
            for nats, stop in ((700.0, 1.5), (700.0, 2.0), (700.0, 1.2), (350.0, 1.5))
        ],
    },
}
