"""SSVI on the digits: budget, learning, determinism, checkpoints, memory, refusals."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from isac_toolbox.nn import TensorLoader
from isac_toolbox.nn.models import lenet_5, mlp
from isac_toolbox.nn.ssvi import SSVI
from isac_toolbox.nn.ssvi.layers import SparseGaussianConv2d, SparseGaussianLinear, descend_in_sigma

FAST = {"learning_rate": 0.1, "update_interval": 10, "layer_density": "erk"}


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp(64, (64, 32), 10)


@pytest.fixture(scope="module")
def fitted(digits, network):
    return SSVI(network, density=0.1, **FAST).fit(digits[0], digits[1], epochs=25, progress=False)


def state(ssvi):
    return [value.clone() for value in ssvi.model.state_dict().values()]


def test_a_tenth_of_the_weights_learns_the_digits(digits, fitted):
    mean, sampled = fitted.evaluate(digits[2]), fitted.evaluate(digits[2], n_samples=5)
    assert mean["accuracy"] > 0.9 and sampled["accuracy"] > 0.9
    assert mean["nll"] < 0.4 and mean["ece"] < 0.1 and mean["brier"] < 0.2
    assert fitted.history[-1].val_accuracy > 0.9


def test_the_budget_is_exact_at_every_step(monkeypatch, digits, network):
    ssvi = SSVI(network, density=0.07, update_interval=3, learning_rate=0.1, replace_fraction=0.9)
    wanted, seen = ssvi.active_weights(), []
    step = ssvi.optimiser.step
    before = {name: layer.index.clone() for name, layer in ssvi.layers.items()}

    def checked(*args, **kwargs):
        assert ssvi.active_weights() == wanted
        for layer in ssvi.layers.values():
            assert layer.index.unique().numel() == layer.n_active == int(layer.mask.sum())
            assert bool((layer.index.diff() > 0).all()) and layer.mean.numel() == layer.rho.numel()
        seen.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(ssvi.optimiser, "step", checked)
    ssvi.fit(digits[0], epochs=2, progress=False)
    assert len(seen) == 38 and ssvi.n_updates == 9
    assert all(not torch.equal(before[name], layer.index) for name, layer in ssvi.layers.items())
    assert sum(wanted.values()) == round(0.07 * 6464) == round(ssvi.density * 6464)
    assert sum(record.replaced for record in ssvi.history) > 0


def test_new_weights_start_at_zero_with_the_mean_sigma_and_no_momentum(digits, network):
    ssvi = SSVI(network, density=0.2, update_interval=1000, learning_rate=0.1, removal="magnitude")
    ssvi.fit(digits[0], epochs=1, progress=False)
    layer = ssvi.layers["fc1"]
    with torch.no_grad():
        layer.rho.add_(torch.linspace(-1.0, 1.0, layer.n_active))
    old, sigma = set(layer.index.tolist()), float(layer.sigma.detach().mean())
    kept = dict(zip(layer.index.tolist(), layer.mean.tolist()))
    x, y = next(iter(digits[0]))
    layer.probing = True
    nn.functional.cross_entropy(ssvi.model(x), y).backward()
    gradient = layer.probe.grad.flatten().clone()
    ssvi.step_count = 1
    ssvi._update_support(1000.0)
    new = [i for i, position in enumerate(layer.index.tolist()) if position not in old]
    assert len(new) == round(0.3 * layer.n_active)
    assert bool((layer.mean[new] == 0.0).all())
    torch.testing.assert_close(layer.sigma[new], torch.full((len(new),), sigma))
    for memory in ssvi._memories(layer):
        assert bool((memory[new] == 0.0).all()) and bool(memory.any())
    survivors = [i for i in range(layer.n_active) if i not in new]
    means, places = layer.mean.tolist(), layer.index.tolist()
    assert [kept[places[i]] for i in survivors] == [means[i] for i in survivors]
    removed = [abs(kept[i]) for i in old - set(layer.index.tolist())]
    assert max(removed) <= min(abs(means[i]) for i in survivors)
    inactive = torch.ones(layer.n_weights, dtype=torch.bool)
    inactive[list(old)] = False
    added = gradient[layer.index[new]].abs().min()
    assert int((gradient.abs()[inactive] > added).sum()) < len(new)


def test_same_seed_same_bits_and_no_global_state(digits, network):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))
        before = torch.random.get_rng_state()
        ssvi = SSVI(network, seed=seed, **FAST).fit(digits[0], epochs=2, progress=False)
        assert torch.equal(before, torch.random.get_rng_state())
        runs.append(state(ssvi))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1]))
    assert not all(torch.equal(a, b) for a, b in zip(runs[0], runs[2]))


def test_a_second_fit_starts_from_the_beginning(digits, network):
    ssvi = SSVI(network, **FAST).fit(digits[0], epochs=2, progress=False)
    first = state(ssvi)
    assert all(torch.equal(a, b) for a, b in zip(first, state(ssvi.fit(digits[0], epochs=2, progress=False))))


@pytest.mark.parametrize("removal", ["snr", "structured"])
def test_resuming_gives_the_same_network(removal, digits, network, tmp_path):
    def fresh():
        addition = "structured" if removal == "structured" else "gradient"
        model = nn.Sequential(nn.Dropout(0.1), network)
        return SSVI(model, 0.1, removal, addition, seed=1, update_interval=7, learning_rate=0.1)

    def loader():
        return TensorLoader(digits[0].x, digits[0].y, batch_size=64, seed=2)

    whole = fresh().fit(loader(), epochs=5, progress=False)
    path = tmp_path / "fit.pt"
    fresh().fit(loader(), epochs=5, progress=False, checkpoint=path, callback=lambda r: r.epoch == 2)
    again, seen = fresh(), []
    again.fit(
        loader(),
        epochs=5,
        progress=False,
        checkpoint=path,
        resume=True,
        callback=lambda record: seen.append(record.epoch),
    )
    assert seen == [3, 4]
    assert [r.loss for r in again.history] == [r.loss for r in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(again)))
    assert again.training_flops == whole.training_flops and again.n_updates == whole.n_updates


def test_a_checkpoint_of_another_run_is_refused(digits, network, tmp_path):
    path = tmp_path / "fit.pt"
    SSVI(network).fit(digits[0], epochs=1, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match=r"density = 0\.1 \(file: 0\.05\)"):
        SSVI(network, density=0.1).fit(digits[0], epochs=1, checkpoint=path, resume=True, progress=False)
    with pytest.raises(ValueError, match="another model"):
        SSVI(mlp(64, (8,), 10)).fit(digits[0], epochs=1, checkpoint=path, resume=True, progress=False)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        SSVI(network).fit(digits[0], epochs=1, checkpoint=path, resume=True, progress=False)


def test_the_training_state_is_small(digits, network):
    sizes = {}
    for density in (0.05, 1.0):
        ssvi = SSVI(network, density=density).fit(digits[0], epochs=1, progress=False)
        counted = ssvi.training_state_bytes()
        sizes[density] = counted["total"]
        assert counted["total"] == sum(value for key, value in counted.items() if key != "total")
        biases = 8 * (64 + 32 + 10)
        assert counted["optimiser"] + counted["parameters"] == 16 * round(6464 * density) + biases
    assert sizes[0.05] <= 0.25 * sizes[1.0]


def test_report(digits, fitted):
    report = fitted.report()
    assert report.density == pytest.approx(fitted.density)
    assert report.n_kept == round(0.1 * 6464)
    assert report.training_flops_dense == 6 * 6464 * 1197 * 25
    ratio = report.training_flops / report.training_flops_dense
    assert 0.1 < ratio < 0.1 + 0.75 / 10 / 3
    assert report.n_updates == fitted.n_updates > 10
    plain = fitted.mean_model()
    torch.testing.assert_close(plain(digits[2].x), fitted.model(digits[2].x), atol=1e-5, rtol=1e-4)


def test_probabilities(digits, fitted):
    x = digits[2].x[:20]
    mean, sampled = fitted.predict_proba(x), fitted.predict_proba(x, n_samples=5)
    torch.testing.assert_close(mean.sum(1), torch.ones(20))
    torch.testing.assert_close(sampled.sum(1), torch.ones(20))
    assert not torch.equal(mean, sampled)
    assert torch.equal(sampled, fitted.predict_proba(x, n_samples=5))


def test_sparse_and_dense_products_train_alike(digits, network):
    runs = []
    for below in (0.0, 0.5):
        ssvi = SSVI(network, density=0.1, sparse_below=below, **FAST)
        kinds = [layer.uses_sparse_product for layer in ssvi.layers.values()]
        assert any(kinds) == (below > 0.0)
        runs.append(ssvi.fit(digits[0], epochs=2, progress=False))
    assert runs[0].history[-1].loss == pytest.approx(runs[1].history[-1].loss, rel=1e-3)


@pytest.mark.parametrize("below", [0.0, 0.5])
@pytest.mark.parametrize("noise", ["weights", "outputs"])
def test_both_kinds_of_noise_have_the_same_moments(noise, below, network):
    ssvi = SSVI(network, density=0.2, initial_sigma=0.3, noise=noise, sparse_below=below)
    layer = ssvi.layers["fc1"]
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    ssvi._set_sampling(7)
    with torch.no_grad():
        draws = torch.stack([layer(x) for _ in range(3000)])
        variance = x.square() @ layer.expand(layer.sigma.square()).t()
    ssvi._set_sampling(None)
    assert float((draws.mean(0) - layer(x)).detach().abs().max()) < 0.1
    torch.testing.assert_close(draws.var(0), variance, rtol=0.2, atol=1e-3)


def test_noise_at_the_outputs_costs_twice_and_allows_a_large_sigma(digits, network):
    found = {}
    for noise in ("weights", "outputs"):
        ssvi = SSVI(network, 0.1, noise=noise, initial_sigma=0.3, **FAST)
        ssvi.fit(digits[0], epochs=10, progress=False)
        found[noise] = (ssvi.history[-1].loss, ssvi.training_flops, ssvi.n_updates)
    assert found["outputs"][0] < found["weights"][0]
    assert 1.8 < found["outputs"][1] / found["weights"][1] <= 2.0
    assert found["outputs"][2] == found["weights"][2]


def test_convolutions_and_normalisations(digits):
    x = nn.functional.interpolate(digits[0].x[:128].reshape(-1, 1, 8, 8), size=(16, 16))
    loader = TensorLoader(x, digits[0].y[:128], batch_size=64)
    net = nn.Sequential(lenet_5(image_size=16, widths=(4, 6, 20)), nn.BatchNorm1d(10))
    ssvi = SSVI(net, density=0.2, layer_density="first_layer_dense", update_interval=1, learning_rate=0.05)
    kinds = {type(layer) for layer in ssvi.layers.values()}
    assert kinds == {SparseGaussianConv2d, SparseGaussianLinear}
    budget = ssvi.active_weights()
    ssvi.fit(loader, epochs=3, progress=False)
    assert ssvi.active_weights() == budget and ssvi.density > 0.2
    assert bool(ssvi.layers["0.conv1"].mask.all())
    assert ssvi.history[-1].loss < ssvi.history[0].loss
    macs = {layer.name: layer.macs_kept for layer in ssvi.report().layers}
    assert ssvi.report().training_flops > 6 * 128 * 3 * sum(macs.values())


@pytest.mark.parametrize("removal", ["magnitude", "mean_abs", "exp_mean"])
@pytest.mark.parametrize("addition", ["gradient", "random"])
def test_every_score_trains(removal, addition, digits, network):
    ssvi = SSVI(network, 0.2, removal, addition, **FAST).fit(digits[0], epochs=8, progress=False)
    assert ssvi.history[-1].accuracy > 0.6


def test_networks_without_biases_and_in_double_precision(digits):
    net = nn.Sequential(
        nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 10, bias=False)
    )
    loader = [(x.double(), y) for x, y in digits[0]]
    ssvi = SSVI(net.double(), 0.2, update_interval=5, learning_rate=0.1, noise="outputs")
    ssvi.fit(loader, epochs=2, progress=False)
    assert all(layer.mean.dtype == torch.float64 for layer in ssvi.layers.values())
    assert ssvi.n_updates > 0 and ssvi.history[-1].loss < ssvi.history[0].loss


def test_the_score_that_keeps_small_weights_warns(network):
    with pytest.warns(UserWarning, match="decreases with"):
        SSVI(network, removal="exp_snr")


def test_chains_make_longer_runs(digits, network):
    runs, accuracy = {}, {}
    for removal, addition in (("snr", "gradient"), ("structured", "structured")):
        ssvi = SSVI(network, 0.2, removal, addition, **FAST).fit(digits[0], epochs=25, progress=False)
        runs[removal] = ssvi.report().layers[0].mean_run
        accuracy[removal] = ssvi.evaluate(digits[2])["accuracy"]
    assert runs["structured"] > 1.8 * runs["snr"]
    assert accuracy["structured"] > accuracy["snr"] - 0.05


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("density", 0.0, ValueError),
        ("density", 1.5, ValueError),
        ("density", "thin", TypeError),
        ("removal", "luck", ValueError),
        ("removal", "structured", ValueError),
        ("addition", "hope", ValueError),
        ("layer_density", "pyramid", ValueError),
        ("erk_power", 0.5, ValueError),
        ("noise", "loud", ValueError),
        ("sigma_step", "tau", ValueError),
        ("replace_fraction", -0.1, ValueError),
        ("update_interval", 0, ValueError),
        ("update_until", 2.0, ValueError),
        ("prior_sd", 0.0, ValueError),
        ("kl_weight", -1.0, ValueError),
        ("learning_rate", math.nan, ValueError),
        ("momentum", 1.0, ValueError),
        ("initial_mean_sd", -0.1, ValueError),
        ("initial_sigma", True, TypeError),
        ("p11", 1.0, ValueError),
        ("seed", 0.5, TypeError),
        ("exclude", ("fc9",), ValueError),
    ],
)
def test_bad_settings_are_named(name, value, error, network):
    with pytest.raises(error, match=name):
        SSVI(network, **{name: value})


def test_a_step_in_sigma_follows_its_gradient_by_one_percent_at_most():
    sigma = torch.tensor([1e-4, 1e-2, 0.3, 2.0], dtype=torch.float64)
    rho = nn.Parameter(sigma.expm1().log())
    torch.testing.assert_close(nn.functional.softplus(rho).detach(), sigma)
    for slope, rate in ((1e-6, 0.1), (-1e-6, 0.1), (1e3, 0.1), (-1e3, 1e-3)):
        rho.grad = None
        (slope * nn.functional.softplus(rho)).sum().backward()
        descend_in_sigma(rho, rate)
        moved = nn.functional.softplus(rho.detach() - rate * rho.grad)
        wanted = (sigma - rate * slope).clamp(0.99 * sigma, 1.01 * sigma)
        torch.testing.assert_close(moved, wanted, rtol=2e-4, atol=0.0)
    descend_in_sigma(None, 0.1)


def test_with_steps_in_sigma_the_start_has_no_effect(digits, network):
    found = {}
    for step in ("rho", "sigma"):
        for start in (1e-3, 0.2):
            ssvi = SSVI(network, 0.2, sigma_step=step, noise="outputs", initial_sigma=start, **FAST)
            ssvi.fit(digits[0], epochs=40, progress=False)
            sigma = torch.cat([layer.sigma.detach() for layer in ssvi.layers.values()]).median()
            found[step, start] = float(sigma), ssvi.evaluate(digits[2])["accuracy"]
    ratio = {step: found[step, 0.2][0] / found[step, 1e-3][0] for step in ("rho", "sigma")}
    assert ratio["rho"] > 30.0 and ratio["sigma"] < 3.0
    assert min(found["sigma", start][1] for start in (1e-3, 0.2)) > 0.9


def test_bad_calls_are_named(digits, network):
    ssvi = SSVI(network)
    with pytest.raises(RuntimeError, match="report needs a fitted network"):
        ssvi.report()
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module"):
        SSVI("net")
    with pytest.raises(ValueError, match="epochs"):
        ssvi.fit(digits[0], epochs=0)
    with pytest.raises(ValueError, match="checkpoint"):
        ssvi.fit(digits[0], epochs=1, resume=True)
    with pytest.raises(TypeError, match="train_loader"):
        ssvi.fit(iter([]), epochs=1)
    with pytest.raises(ValueError, match="n_samples"):
        ssvi.predict_proba(digits[2].x, n_samples=-1)
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor"):
        ssvi.predict_proba([[0.0]])
    with pytest.raises(FloatingPointError, match="learning_rate"):
        SSVI(network, density=1.0, learning_rate=1e6).fit(digits[0], epochs=1, progress=False)


def test_the_package_does_not_load_torch():
    code = "import sys, isac_toolbox, isac_toolbox.cli.nn_ssvi; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_second_fit_counts_the_operations_of_its_inputs(resumed, digits, tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
        )

    def loader(side):
        maps = nn.functional.interpolate(digits[0].x[:128].reshape(-1, 1, 8, 8), size=(side, side))
        return TensorLoader(maps, digits[0].y[:128], batch_size=64)

    part = {"epochs": 2, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    fresh = SSVI(network(), 0.5, update_interval=1).fit(loader(16), **part).report()
    again = SSVI(network(), 0.5, update_interval=1).fit(loader(8), epochs=1, progress=False)
    first = again.report().macs_dense
    again = again.fit(loader(16), **part, resume=resumed).report()
    assert first == 9 * 4 * 36 + 160  # 6 x 6 positions
    assert again.macs_dense == fresh.macs_dense == 9 * 4 * 196 + 160
    assert again.training_flops == fresh.training_flops
    assert again.training_flops_dense == fresh.training_flops_dense == 6 * 256 * (9 * 4 * 196 + 160)


def test_a_file_holds_the_whole_posterior(tmp_path, digits, network, fitted):
    path = fitted.save(tmp_path / "posterior")
    loaded = SSVI.load(path, mlp(64, (64, 32), 10))
    x = digits[2].x
    for n_samples in (0, 3):
        assert torch.equal(loaded.predict_proba(x, n_samples), fitted.predict_proba(x, n_samples))
    assert loaded.report() == fitted.report() and loaded.history == fitted.history
    assert path.stat().st_size < fitted.training_state_bytes()["total"] + 60_000
    with pytest.raises(ValueError, match="does not fit Sequential"):
        SSVI.load(path, mlp(64, (64, 30), 10))
    with pytest.raises(FileNotFoundError):
        SSVI.load(tmp_path / "none.safetensors", network)
    with pytest.raises(RuntimeError, match="save needs a fitted network"):
        SSVI(network).save(path)


def test_a_trained_network_is_a_start(digits, trained):
    ssvi = SSVI(trained, density=0.3, start="model", learning_rate=0.01, update_interval=10)
    plain, start = dict(trained.named_modules()), ssvi.mean_model()
    for name, layer in ssvi.layers.items():
        weight, kept = plain[name].weight.detach(), layer.mask
        assert torch.equal(dict(start.named_modules())[name].weight.detach(), weight * kept)
        assert float(weight[kept].abs().min()) >= float(weight[~kept].abs().max())
    random = SSVI(trained, density=0.3, learning_rate=0.01, update_interval=10)
    first, cold = (s.fit(digits[0], digits[1], epochs=2, progress=False).history[0] for s in (ssvi, random))
    assert first.val_accuracy > cold.val_accuracy + 0.2
    before = ssvi.predict_proba(digits[2].x)
    assert torch.equal(ssvi.fit(digits[0], epochs=2, progress=False).predict_proba(digits[2].x), before)


def test_a_start_that_does_not_go_is_refused(network):
    with pytest.raises(ValueError, match="initial_mean_sd goes with start='random'"):
        SSVI(network, start="model", initial_mean_sd=0.1)
    with pytest.raises(ValueError, match="start must be one of"):
        SSVI(network, start="warm")
