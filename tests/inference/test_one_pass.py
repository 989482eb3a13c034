"""Message, slab, support graph and precision meet in one function, and every user of the engine calls it.

For many real coefficients there is a second one in single precision, and for the paths of a scene one kernel;
``test_compact`` and ``test_working_set`` compare them.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.scene import working_set
from isac_toolbox.inference import GatedChain, ThreeLayerPrior, compact_sweep, sparse_recover
from isac_toolbox.inference._sweep_kernels import sweep_paths
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.mixture import gaussian_log_ratio

PACKAGE = Path(isac.__file__).parent
GRAPHS = {"BlockSupport", "IndependentSupport", "GatedChain", "Lattice", "ScenePriorGraph"}


def callers_of(name: str) -> set[str]:
    """Return ``file:class.function`` of every call of a method of this name in the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for function in ast.iter_child_nodes(owner):
                calls = isinstance(function, ast.FunctionDef) and any(
                    isinstance(node, ast.Call) and getattr(node.func, "attr", "") == name
                    for node in ast.walk(function)
                )
                if calls:
                    room = path.relative_to(PACKAGE).as_posix()
                    found.add(f"{room}:{getattr(owner, 'name', '')}.{function.name}")
    return found


def test_slabs_and_graphs_are_learned_in_one_function():
    sweep = {"inference/hierarchy.py:ThreeLayerPrior.sweep"}
    assert callers_of("_with_learned_slab") == sweep
    learners = callers_of("learned")  # a graph may be made of graphs
    assert {c for c in learners if c.split(":")[1].split(".")[0] not in GRAPHS} == sweep


@pytest.fixture
def sweeps(monkeypatch):
    """Count the calls of the one pass."""
    calls = []
    original = ThreeLayerPrior.sweep

    def counted(self, *arguments, **options):
        calls.append(1)
        return original(self, *arguments, **options)

    def counted_kernel(*arguments):
        calls.append(1)
        return sweep_paths(*arguments)

    monkeypatch.setattr(ThreeLayerPrior, "sweep", counted)
    monkeypatch.setattr(working_set, "sweep_paths", counted_kernel)
    return calls


SMALL = isac.Scenario.load("urban_uplink").replace(
    n_users=2, n_subcarriers=32, array_shape=(4, 4), n_scatterers=2, n_data_symbols=4
)


@pytest.mark.parametrize(
    "estimator",
    [
        isac.EMTurboBiSVBI(max_iter=3),
        isac.EMTurboBiSVBI(max_iter=3, inverse="mm", grid_points=27),
        isac.EMTurboBiSVBI(max_iter=3, inverse="full", grid_points=27),
        isac.MusicSCVBI(),
    ],
    ids=["subspace", "mm", "full", "music-scvbi"],
)
def test_scene_estimators_sweep(estimator, sweeps):
    estimator.estimate(SMALL.simulate(0).observation)
    assert len(sweeps) > 3


def test_sparse_recovery_sweeps(sweeps):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((20, 40))
    result = sparse_recover(matrix, matrix[:, 3] + 0.1 * rng.standard_normal(20), GatedChain([8] * 5))
    assert len(sweeps) == result.n_iter


def swept_alone(mean: complex, told: float, slab: float, spike: float, floor: float) -> np.ndarray:
    """Beliefs (5,) in one line of sight of which data tell a precision, after one pass from ``rho = 1``."""
    variance = 1 / (told + 1)
    posterior = np.array([mean * variance * told]), np.array([[told + 0j]]), np.array([[variance + 0j]])
    beliefs, learned = np.empty((5, 1)), np.empty(3)
    limits, counts = (floor, 1e3, 1.0, 1e-300, 1e300), np.array([0.3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    precisions, odds = np.array([[slab], [spike]]), np.full(2, 0.5)
    classes, sizes = np.zeros(1, np.int64), (1, 0, 0, 0)
    room = np.empty(3)
    sweep_paths(
        posterior, np.ones(1), 1.0, classes, precisions, limits, sizes, odds, counts, beliefs, learned, room
    )
    return beliefs[:, 0]


@pytest.mark.parametrize("told", [1e-11, 1e-3, 1e3, 1e11])
def test_what_data_tell_is_kept_to_all_digits_beside_a_prior(told):
    """Of one coefficient ``1/v = gamma g``, however little or much of its precision that is."""
    mean, slab, spike = (0.6 + 0.8j) / np.sqrt(told), 0.1 * told, 10 * told
    message = GaussianMessage(np.array([mean]), np.array([1 / told]))
    expected = gaussian_log_ratio(message, np.array([slab]), np.array([spike]), is_complex=True)
    found = swept_alone(mean, told, slab, spike, floor=1e-300)
    np.testing.assert_allclose(found[3], expected[0], rtol=1e-12)


def test_where_data_tell_nothing_the_prior_decides():
    found = swept_alone(0j, 0.0, slab=0.5, spike=50.0, floor=1e-12)
    assert found[3] == pytest.approx(0, abs=1e-9)
    assert found[2] == pytest.approx(1 / (1 + np.exp(-0.3)))
    assert np.all(np.isfinite(found)) and 0.5 < found[0] < 50.0


@pytest.mark.skipif(find_spec("torch") is None, reason='needs the extra "nn"')
@pytest.mark.parametrize("rule", ["extrinsic", "structured"])
def test_compression_sweeps(rule, sweeps, monkeypatch):
    from isac_toolbox import nn

    def counted(*arguments):
        sweeps.append(1)
        return compact_sweep(*arguments)

    monkeypatch.setattr("isac_toolbox.nn.turbo_vbi.prior.compact_sweep", counted)
    train_set, _, _ = nn.load_digits_split(0)
    loader = nn.TensorLoader.from_dataset(train_set, batch_size=256)
    model = nn.models.mlp(64, (16,), 10)
    settings = {"rule": rule, "warmup_epochs": 1, "updates_per_epoch": 2, "max_loss_drop": None}
    nn.TurboVBICompressor(model, **settings).fit(loader, epochs=3, progress=False)
    assert len(sweeps) == 2 * 2 * 2  # layers, epochs after the warm-up, updates in each
