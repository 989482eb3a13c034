"""Baselines of SSVI: same interface, same counts."""

import pytest
import torch

from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.ssvi import SSVI
from isac_toolbox.nn.ssvi.baselines import DenseVI, MagnitudeSparse, PrunedVI

N_WEIGHTS = 64 * 32 + 32 * 10


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp(64, (32,), 10)


def test_dense_variational_inference(digits, network):
    dense = DenseVI(network).fit(digits[0], epochs=10, progress=False)
    assert dense.evaluate(digits[2])["accuracy"] > 0.9
    assert dense.density == 1.0 and dense.n_updates == 0
    counted = dense.training_state_bytes()
    assert counted["positions"] == 0
    assert dense.report().training_flops == 6 * N_WEIGHTS * 1197 * 10 == dense.report().training_flops_dense


def test_magnitudes_without_a_posterior(digits, network):
    sparse = MagnitudeSparse(network, 0.2, update_interval=10).fit(digits[0], epochs=10, progress=False)
    assert sparse.evaluate(digits[2])["accuracy"] > 0.8
    assert sparse.n_updates > 5 and sparse.kl() == 0.0
    assert all(layer.rho is None for layer in sparse.layers.values())
    x = digits[2].x[:5]
    torch.testing.assert_close(sparse.predict_proba(x), sparse.predict_proba(x, n_samples=2))
    bayesian = SSVI(network, 0.2, update_interval=10).fit(digits[0], epochs=10, progress=False)
    assert sparse.training_flops == bayesian.training_flops
    assert sparse.training_state_bytes()["total"] < bayesian.training_state_bytes()["total"]


@pytest.mark.parametrize("part", [0.0, 0.4])
def test_pruning_after_dense_training(part, digits, network):
    pruned = PrunedVI(network, 0.2, finetune_part=part).fit(digits[0], epochs=10, progress=False)
    assert sum(pruned.active_weights().values()) == round(0.2 * N_WEIGHTS)
    assert pruned.evaluate(digits[2])["accuracy"] > (0.85 if part else 0.5)
    ratio = pruned.training_flops / (6 * N_WEIGHTS * 1197 * 10)
    assert ratio == pytest.approx((1 - part) + part * 0.2, rel=0.01)


@pytest.mark.parametrize("stop", [1, 4])
def test_pruning_resumes(stop, digits, network, tmp_path):
    path = tmp_path / "fit.pt"

    def fresh():
        return PrunedVI(network, 0.2, finetune_part=0.5)

    whole = fresh().fit(digits[0], epochs=6, progress=False)
    fresh().fit(digits[0], epochs=6, progress=False, checkpoint=path, callback=lambda r: r.epoch == stop)
    again = fresh().fit(digits[0], epochs=6, progress=False, checkpoint=path, resume=True)
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values()):
        assert torch.equal(a, b)


def test_bad_settings_are_named(network):
    with pytest.raises(TypeError, match=r"DenseVI has no setting \['density'\]"):
        DenseVI(network, density=0.1)
    with pytest.raises(TypeError, match="prior_sd"):
        MagnitudeSparse(network, prior_sd=1.0)
    with pytest.raises(ValueError, match="finetune_part"):
        PrunedVI(network, finetune_part=1.0)
    with pytest.raises(ValueError, match="score"):
        PrunedVI(network, score="exp_snr")
