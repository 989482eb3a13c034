"""The compressor: results, engine calls, determinism, checkpoints, refusals."""

import math
from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import isac_toolbox.inference as inference
from isac_toolbox.nn import TensorLoader, TurboVBICompressor
from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.training import accuracy, train, training_epoch
from isac_toolbox.nn.turbo_vbi.prior import LayerPrior

NO_SHRINKING = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="module")
def compressed(digits, trained):
    settings_ = {"temperature": 0.15, "temperature_start": 0.03, "learning_rate": 3e-3, "warmup_epochs": 4}
    compressor = TurboVBICompressor(trained, **settings_)
    compressor.fit(digits[0], digits[1], epochs=40, progress=False)
    return compressor.finetune(digits[0], epochs=20, teacher=trained, progress=False)


def test_digits_lose_five_of_six_weights_and_little_accuracy(digits, trained, compressed):
    report = compressed.report()
    dense, small = accuracy(trained, digits[2]), accuracy(compressed.export(), digits[2])
    assert report.compression >= 5.0
    assert small >= dense - 0.03
    assert report.neurons_kept[0] < 60
    assert report.macs < report.macs_dense / 1.5
    assert report.bytes["run_length"] < report.bytes["csr"] < report.bytes["dense"]
    with pytest.raises(FrozenInstanceError):
        report.macs = 0


def test_support_report_and_masked_model_agree(compressed):
    support, report, plain = compressed.support(), compressed.report(), compressed.masked_model()
    assert report.n_kept == sum(int(mask.sum()) for mask in support.values())
    for layer in report.layers:
        weight = plain.get_submodule(layer.name).weight
        assert torch.equal(weight != 0.0, support[layer.name])


def test_export_equals_the_masked_model(digits, compressed):
    x = digits[2].x
    small = compressed.export()
    assert sum(p.numel() for p in small.parameters()) < compressed.report().n_parameters_dense / 1.5
    torch.testing.assert_close(small(x), compressed.model(x), atol=1e-5, rtol=0)


def test_probabilities(digits, compressed):
    x = digits[2].x[:20]
    mean = compressed.predict_proba(x)
    sampled = compressed.predict_proba(x, n_samples=20)
    torch.testing.assert_close(mean.sum(1), torch.ones(20))
    torch.testing.assert_close(sampled.sum(1), torch.ones(20))
    assert not torch.equal(mean, sampled)
    assert torch.equal(sampled, compressed.predict_proba(x, n_samples=20))
    assert torch.equal(mean, compressed.predict_proba(x))


def test_the_engine_decides(monkeypatch, digits, trained):
    calls = []
    original = inference.compact_sweep

    def counted(prior, support, *args):
        calls.append(type(support))
        return original(prior, support, *args)

    monkeypatch.setattr("isac_toolbox.nn.turbo_vbi.prior.compact_sweep", counted)
    compressor = TurboVBICompressor(trained, warmup_epochs=1, updates_per_epoch=3)
    compressor.fit(digits[0], epochs=3, progress=False)
    assert calls == 18 * [inference.GatedChain]  # 3 layers, 2 epochs, 3 updates

    def closed(prior, support, message, precision, odds, damping):
        odds[:] = -1e4
        return prior, support

    monkeypatch.setattr("isac_toolbox.nn.turbo_vbi.prior.compact_sweep", closed)
    compressor = TurboVBICompressor(trained, warmup_epochs=1).fit(digits[0], epochs=2, progress=False)
    assert not any(bool(mask.any()) for mask in compressor.support().values())


@pytest.mark.parametrize("rule", ["structured", "mean_field"])
def test_other_rules_are_those_of_the_engine(monkeypatch, rule, digits, trained):
    calls = []
    original = inference.ThreeLayerPrior.sweep

    def counted(self, *args, **kwargs):
        calls.append(self.rule)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(inference.ThreeLayerPrior, "sweep", counted)
    compressor = TurboVBICompressor(trained, rule=rule, warmup_epochs=1, updates_per_epoch=2)
    compressor.fit(digits[0], epochs=2, progress=False)
    assert calls == 6 * [rule]


def test_chains_make_longer_runs(digits, trained):
    runs, density = {}, {}
    for support in ("chain", "independent"):
        compressor = TurboVBICompressor(trained, temperature=0.2, support=support, warmup_epochs=2)
        report = compressor.fit(digits[0], epochs=20, progress=False).report()
        runs[support], density[support] = report.layers[0].mean_run, report.density
    # by chance alone a run has a mean length of 1 / (1 - density)
    assert runs["chain"] * (1 - density["chain"]) > 1.5 * runs["independent"] * (1 - density["independent"])


def test_connected_weights_of_the_last_epoch_are_those_of_the_report(digits, trained):
    compressor = TurboVBICompressor(trained, temperature=2.0, warmup_epochs=1)
    compressor.fit(digits[0], epochs=4, progress=False)
    record, report = compressor.history[-1], compressor.report()
    assert record.n_connected == report.n_kept
    assert record.n_connected < round(record.density * report.n_weights)  # some are disconnected


def test_a_budget_drops_the_least_certain_weights(digits, trained):
    compressor = TurboVBICompressor(trained, temperature=0.3, warmup_epochs=1)
    compressor.fit(digits[0], epochs=4, progress=False)
    before, n = compressor.support(), compressor.report().n_kept
    assert compressor.keep_at_most(n).report().n_kept == n  # met already
    report = compressor.keep_at_most(n // 2).report()
    assert 0.8 * (n // 2) < report.n_kept <= n // 2
    after = compressor.support()
    odds = {name: compressor.priors[name].log_odds for name in before}
    assert all(bool((before[name] | ~after[name]).all()) for name in before)
    kept = torch.cat([odds[name][after[name]] for name in before]).min()
    gone = torch.cat([odds[name][before[name] & ~after[name]] for name in before])
    assert float((gone < kept).float().mean()) > 0.5  # the others are disconnected now
    x = digits[2].x[:50]
    torch.testing.assert_close(compressor.export()(x), compressor.masked_model()(x), rtol=0.0, atol=1e-5)
    with pytest.raises(ValueError, match="n_weights"):
        compressor.keep_at_most(0)


def test_after_finetuning_a_budget_chooses_by_the_finetuned_weights(digits, trained):
    def at_half(finetuned):
        compressor = TurboVBICompressor(trained, temperature=0.3, warmup_epochs=1, support="independent")
        compressor.fit(digits[0], epochs=4, progress=False)
        if finetuned:
            compressor.finetune(digits[0], epochs=1, progress=False)
        layer = compressor.layers["fc1"]
        surest = (compressor.priors["fc1"].log_odds * layer.mask).flatten().argmax()
        with torch.no_grad():
            layer.weight.view(-1)[surest] = 1e-6
        n = compressor.report().n_kept
        assert compressor.keep_at_most(n // 2).report().n_kept <= n // 2
        return bool(compressor.support()["fc1"].flatten()[surest])

    assert at_half(finetuned=False)  # the fit was sure of it
    assert not at_half(finetuned=True)


def test_a_gate_that_no_evidence_opens_ends_the_search_for_a_budget(digits, trained):
    compressor = TurboVBICompressor(trained, temperature=0.3, warmup_epochs=1)
    compressor.fit(digits[0], epochs=4, progress=False).finetune(digits[0], epochs=1, progress=False)
    for prior in compressor.priors.values():
        prior.graph.gate = 1e-300
    n = compressor.report().n_kept
    assert compressor.keep_at_most(n - 1).report().n_kept < n - 1


def test_finetuning_continues_the_numbers_of_the_epochs(monkeypatch, digits, trained):
    compressor = TurboVBICompressor(trained, warmup_epochs=1).fit(digits[0], epochs=3, progress=False)
    seen = []
    monkeypatch.setattr(digits[0], "set_epoch", seen.append)
    compressor.finetune(digits[0], epochs=2, progress=False).finetune(digits[0], epochs=1, progress=False)
    assert seen == [3, 4, 5]
    compressor.fit(digits[0], epochs=3, progress=False).finetune(digits[0], epochs=1, progress=False)
    assert seen[-1] == 3


def test_the_factorised_rule_does_not_prune(digits, trained):
    density = {}
    for rule in inference.RULES:
        compressor = TurboVBICompressor(trained, rule=rule, temperature=0.1, warmup_epochs=2)
        density[rule] = compressor.fit(digits[0], epochs=12, progress=False).report().density
    assert density["mean_field"] > 0.95 > density["extrinsic"]


def state(compressor):
    return [value.clone() for value in compressor.model.state_dict().values()]


def test_same_seed_same_bits_and_no_global_state(digits, trained):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))
        before = torch.random.get_rng_state()
        compressor = TurboVBICompressor(trained, seed=seed, warmup_epochs=1)
        compressor.fit(digits[0], epochs=3, progress=False).finetune(digits[0], epochs=1, progress=False)
        assert torch.equal(before, torch.random.get_rng_state())
        runs.append(state(compressor))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1]))
    assert not all(torch.equal(a, b) for a, b in zip(runs[0], runs[2]))


def shuffled(with_generator):
    def make(digits):
        generator = torch.Generator().manual_seed(5) if with_generator else None
        dataset = TensorDataset(digits[0].x[:256], digits[0].y[:256])
        return DataLoader(dataset, batch_size=64, shuffle=True, generator=generator)

    return make


@pytest.mark.parametrize(
    "make",
    [lambda digits: TensorLoader(digits[0].x, digits[0].y, seed=2), shuffled(True), shuffled(False)],
    ids=["tensors", "loader-generator", "global-generator"],
)
@pytest.mark.parametrize("precision", ["mixture", "relevance"])
def test_resuming_gives_the_same_network(precision, make, digits, trained, tmp_path):
    def fresh():
        model = nn.Sequential(nn.Dropout(0.1), trained)
        given = {"warmup_epochs": 1, "temperature_start": 0.02, "precision": precision}
        return TurboVBICompressor(model, seed=1, variance_growth=0.5, **given)

    whole = fresh().fit(make(digits), epochs=5, progress=False)
    path = tmp_path / "fit.pt"
    fresh().fit(
        make(digits), epochs=5, progress=False, checkpoint=path, callback=lambda record: record.epoch == 2
    )
    again = fresh()
    seen = []
    again.fit(
        make(digits),
        epochs=5,
        progress=False,
        checkpoint=path,
        resume=True,
        callback=lambda record: seen.append(record.epoch),
    )
    assert seen == [3, 4]
    assert [r.loss for r in again.history] == [r.loss for r in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(again)))


def test_a_checkpoint_of_another_run_is_refused(digits, trained, tmp_path):
    path = tmp_path / "fit.pt"
    first = TurboVBICompressor(trained, warmup_epochs=1)
    first.fit(digits[0], epochs=2, checkpoint=path, progress=False)
    other = TurboVBICompressor(trained, warmup_epochs=1, temperature=0.7)
    with pytest.raises(ValueError, match=r"temperature = 0\.7 \(file: 0\.1\)"):
        other.fit(digits[0], epochs=2, checkpoint=path, resume=True, progress=False)
    model = TurboVBICompressor(mlp(64, (8,), 10), warmup_epochs=1)
    with pytest.raises(ValueError, match="another model"):
        model.fit(digits[0], epochs=2, checkpoint=path, resume=True, progress=False)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        first.fit(digits[0], epochs=2, checkpoint=path, resume=True, progress=False)


def test_temperature_is_annealed_geometrically(trained):
    compressor = TurboVBICompressor(trained, temperature=0.4, temperature_start=0.1, anneal=0.5)
    values = [compressor.settings.temperature_at(epoch, 9) for epoch in range(9)]
    assert values[0] == pytest.approx(0.1) and values[2] == pytest.approx(0.2)
    assert values[4:] == pytest.approx([0.4] * 5)


def test_the_support_may_have_another_temperature(digits, trained, monkeypatch):
    seen = []
    message = LayerPrior.message

    def spy(prior, mean, gradient, curvature, temperature, size):
        seen.append(temperature)
        return message(prior, mean, gradient, curvature, temperature, size)

    monkeypatch.setattr(LayerPrior, "message", spy)
    given = {"temperature": 0.1, "temperature_start": 0.02, "anneal": 0.5, "warmup_epochs": 1, "seed": 0}
    alike = TurboVBICompressor(trained, **given)
    warmer = TurboVBICompressor(trained, support_temperature=0.4, **given)
    assert alike.settings.support_factor == 1.0
    kept = []
    for compressor, factor in ((alike, 1.0), (warmer, 4.0)):
        seen.clear()
        compressor.fit(digits[0], epochs=6, progress=False)
        steps = [compressor.settings.temperature_at(epoch, 6) for epoch in range(1, 6)]
        per_epoch = compressor.settings.updates_per_epoch * len(compressor.layers)
        assert seen == pytest.approx([factor * t for t in steps for _ in range(per_epoch)])
        for name, layer in compressor.layers.items():  # the noise of the weights follows `temperature`
            h, n = compressor.curvatures[name].mean_curvature, digits[0].dataset_size
            torch.testing.assert_close(layer.variance, 1 / (n * h / 0.1 + compressor.precisions[name]))
        kept.append(compressor.history[-1].density)
    assert kept[1] < 0.9 * kept[0]


def test_under_automatic_relevance_determination_the_engine_pulls_nothing_to_zero(digits, trained):
    given = {"temperature": 1.0, "warmup_epochs": 1, "damping": 1.0, "variance_growth": 0.4, "seed": 0}
    given |= {"learning_rate": 3e-3, "learn_support": False, "p01": 0.05, "p11": 0.7}
    silent = {}
    for precision in ("mixture", "relevance"):
        compressor = TurboVBICompressor(trained, precision=precision, **given)
        compressor.fit(digits[0], epochs=20, progress=False)
        active, layer = compressor.priors["fc1"].active, compressor.layers["fc1"]
        power = layer.weight.detach().square()
        silent[precision] = float(power[~active].mean())
    assert silent["mixture"] < 1e-6 < 1e-3 < silent["relevance"]  # no spike has pulled
    assert 0.01 < float(active.float().mean()) < 0.3
    assert float(power[active].mean()) > 5.0 * silent["relevance"]
    ratio = compressor.precisions["fc1"] * (power + layer.variance)
    assert torch.quantile(ratio.log().abs().flatten(), 0.9) < 0.1  # one step after the last update


@pytest.mark.parametrize(("growth", "low", "high"), [(None, 1.0, math.inf), (0.4, 0.399, 0.4001)])
def test_variances_grow_no_faster_than_they_may(growth, low, high, digits, trained):
    compressor = TurboVBICompressor(trained, variance_growth=growth, warmup_epochs=1, temperature=1.0)
    layer = compressor.layers["fc1"]
    seen = [layer.variance.clone()]
    compressor.fit(
        digits[0], epochs=4, progress=False, callback=lambda _: seen.append(layer.variance.clone())
    )
    assert low < max(float((b / a).log().max()) for a, b in pairwise(seen)) < high


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("temperature", 0.0, ValueError),
        ("support_temperature", 0.0, ValueError),
        ("temperature", "hot", TypeError),
        ("support", "ring", ValueError),
        ("rule", "belief", ValueError),
        ("precision", "double", ValueError),
        ("variance_growth", 0.0, ValueError),
        ("damping", 0.0, ValueError),
        ("gate", 1.0, ValueError),
        ("p01", True, TypeError),
        ("warmup_epochs", -1, ValueError),
        ("updates_per_epoch", 0, ValueError),
        ("seed", 0.5, TypeError),
        ("curvature_decay", 1.0, ValueError),
        ("spike_precision", math.inf, ValueError),
    ],
)
def test_bad_settings_are_named(name, value, error, trained):
    with pytest.raises(error, match=name):
        TurboVBICompressor(trained, **{name: value})


@NO_SHRINKING
@given(value=st.one_of(st.floats(max_value=0.0), st.just(math.nan), st.text(), st.none(), st.booleans()))
def test_learning_rate_and_spike_must_be_positive(value):
    for name in ("learning_rate", "spike_precision"):
        with pytest.raises((TypeError, ValueError), match=name):
            TurboVBICompressor(nn.Linear(2, 2), **{name: value})


@pytest.mark.parametrize("other", [{"precision": "relevance"}, {"rule": "mean_field"}])
def test_moment_matching_needs_the_engines_precision(other):
    with pytest.raises(ValueError, match="moment_matching needs"):
        TurboVBICompressor(nn.Linear(2, 2), moment_matching=True, **other)


def test_gates_by_layer(digits, trained):
    with pytest.raises(ValueError, match=r"gate names \['fc7'\], but the layers are \['fc1'"):
        TurboVBICompressor(trained, gate={"fc7": 0.1})
    with pytest.raises(ValueError, match=r"gate\['fc1'\] must lie in \(0, 1\), got 0"):
        TurboVBICompressor(trained, gate={"fc1": 0})
    neurons = []
    for gate in (0.5, {"fc1": 1e-60}):
        compressor = TurboVBICompressor(trained, gate=gate, learn_support=False, warmup_epochs=1)
        compressor.fit(digits[0], epochs=8, progress=False)
        neurons.append(compressor.report().neurons_kept[0])
    assert neurons[1] < 0.8 * neurons[0]


def test_temperature_factors_by_layer(digits, trained):
    with pytest.raises(ValueError, match=r"temperature_factors names \['fc7'\]"):
        TurboVBICompressor(trained, temperature_factors={"fc7": 2.0})
    with pytest.raises(ValueError, match=r"temperature_factors\['fc1'\]"):
        TurboVBICompressor(trained, temperature_factors={"fc1": 0.0})

    def fitted(temperature, factors):
        chosen = {"temperature": temperature, "temperature_factors": factors, "warmup_epochs": 1}
        return TurboVBICompressor(trained, **chosen).fit(digits[0], epochs=8, progress=False)

    names = list(fitted(0.2, None).layers)
    everywhere, whole = fitted(0.05, dict.fromkeys(names, 4.0)), fitted(0.2, None)
    for name, mask in everywhere.support().items():
        assert torch.equal(mask, whole.support()[name])  # a factor on all layers is a factor on T
    hot = fitted(0.05, {names[0]: 10.0}).support()[names[0]]
    assert int(hot.sum()) < 0.9 * int(fitted(0.05, None).support()[names[0]].sum())


def test_bad_calls_are_named(digits, trained):
    compressor = TurboVBICompressor(trained)
    for call in (compressor.report, compressor.export, lambda: compressor.finetune(digits[0], epochs=1)):
        with pytest.raises(RuntimeError, match="call fit first"):
            call()
    with pytest.raises(ValueError, match="epochs must exceed warmup_epochs = 5, got 5"):
        compressor.fit(digits[0], epochs=5)
    with pytest.raises(TypeError, match="train_loader"):
        compressor.fit(iter([1]), epochs=9)
    with pytest.raises(ValueError, match="resume=True needs"):
        compressor.fit(digits[0], epochs=9, resume=True)

    class Endless:
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="dataset_size must be given"):
        compressor.fit(Endless(), epochs=9)
    with pytest.raises(TypeError, match="x must be a torch"):
        compressor.predict_proba([1.0])


def test_a_divergent_loss_is_an_error(digits, trained):
    def broken(output, target):
        return nn.functional.cross_entropy(output, target) * math.inf

    with pytest.raises(FloatingPointError, match="epoch 0"):
        TurboVBICompressor(trained, loss=broken).fit(digits[0], epochs=6, progress=False)


class SmallResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.a = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn_a = nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x.reshape(x.size(0), 1, 8, 8))))
        x = torch.relu(self.bn_a(self.a(x)) + self.b(x))
        return self.head(x)


def test_convolutions_with_norms_and_a_shortcut(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = train(SmallResidual(), digits[0], epochs=6, learning_rate=5e-3)
    compressor = TurboVBICompressor(model, temperature=0.5, temperature_start=0.05, warmup_epochs=2)
    compressor.fit(digits[0], epochs=16, progress=False)
    with torch.no_grad():  # whatever the engine chose, the first four channels die at every addend
        for name in ("stem", "a", "b"):
            compressor.layers[name].mask[:4] = False
    compressor._tidy(silence=True)
    before = compressor.support()
    compressor.finetune(digits[0], epochs=8, learning_rate=1e-2, progress=False)
    after, x = compressor.support(), digits[2].x
    assert all(bool((after[name] <= before[name]).all()) for name in after)
    assert compressor.export().stem.out_channels <= 8
    masked = compressor.masked_model()(x)
    torch.testing.assert_close(compressor.model.eval()(x), masked)
    for fold in (False, True):
        torch.testing.assert_close(compressor.export(fold_norms=fold)(x), masked, atol=1e-5, rtol=1e-5)
    assert compressor.report().macs < compressor.report().macs_dense
    assert accuracy(compressor.export(), digits[1]) > 0.85


def compressed_convolutions(digits):
    images, labels = digits[0].x, digits[0].y
    maps = TensorLoader(images.reshape(-1, 1, 8, 8), labels, batch_size=64, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10)),
        )
    train(model, maps, epochs=5, learning_rate=2e-3)
    compressor = TurboVBICompressor(model, temperature=0.3, warmup_epochs=1, seed=0)
    return compressor.fit(maps, epochs=8, progress=False), maps


def test_a_budget_of_macs_drops_whole_neurons_with_the_least_evidence(digits):
    compressor, maps = compressed_convolutions(digits)
    before, macs = compressor.support(), compressor.report().macs
    odds = {name: prior.log_odds.clamp(min=0.0) for name, prior in compressor.priors.items()}
    assert compressor.keep_macs_at_most(macs).report().macs == macs  # met already
    report = compressor.keep_macs_at_most(int(0.6 * macs)).report()
    assert 0.3 * macs < report.macs <= 0.6 * macs
    after = compressor.support()
    thinned = 0
    for name in ("0", "2", "5"):  # within a layer all neurons cost the same: the strongest stay
        evidence = (odds[name] * before[name]).flatten(1).sum(1)
        stays, was = after[name].flatten(1).any(1), before[name].flatten(1).any(1)
        assert bool((stays <= was).all())
        if not torch.equal(stays, was):
            thinned += 1
            assert evidence[stays].mean() > evidence[was & ~stays].mean()
    assert thinned > 0
    x = maps.x[:50]
    with torch.no_grad():
        torch.testing.assert_close(compressor.export()(x), compressor.masked_model()(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"macs must be at least \d+, one neuron in every layer"):
        compressor.keep_macs_at_most(10)


def test_filled_neurons_change_neither_function_nor_exported_size(digits):
    compressor, maps = compressed_convolutions(digits)
    images = digits[0].x
    before, kept, small = compressor.masked_model(), compressor.support(), compressor.report()
    filled = compressor.fill_neurons().support()
    x = images[:50].reshape(-1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compressor.masked_model()(x), before(x), atol=0.0, rtol=0.0)
    assert all(bool((filled[name] >= kept[name]).all()) for name in kept)
    assert compressor.report().n_kept > small.n_kept
    assert compressor.report().macs == small.macs < small.macs_dense
    hidden = filled["2"].flatten(2).any(2)
    assert bool((filled["2"] == hidden[:, :, None, None]).all())
    assert torch.equal(hidden, hidden.any(1)[:, None] & hidden.any(0))
    assert torch.equal(filled["5"], filled["5"].any(1)[:, None] & filled["5"].any(0))
    compressor.finetune(maps, epochs=1, progress=False)
    with torch.no_grad():
        torch.testing.assert_close(compressor.export()(x), compressor.masked_model()(x), atol=1e-4, rtol=1e-5)


def test_filling_needs_a_fit(trained):
    with pytest.raises(RuntimeError, match="fill_neurons"):
        TurboVBICompressor(trained).fill_neurons()


def test_named_layers_have_an_independent_support_through_resume(digits, trained, tmp_path):
    settings_ = {"independent_layers": ["fc2"], "learn_support": False, "warmup_epochs": 1, "seed": 2}
    whole = TurboVBICompressor(trained, **settings_).fit(digits[0], epochs=4, progress=False)
    assert isinstance(whole.priors["fc1"].graph, inference.GatedChain)
    assert isinstance(whole.priors["fc2"].graph, inference.IndependentSupport)
    assert whole.priors["fc2"].graph.probability != 0.5
    part = {"epochs": 4, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    TurboVBICompressor(trained, **settings_).fit(digits[0], **part, callback=lambda r: r.epoch == 1)
    again = TurboVBICompressor(trained, **settings_).fit(digits[0], **part, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(again)))
    with pytest.raises(ValueError, match="independent_layers"):
        TurboVBICompressor(trained, seed=2, warmup_epochs=1, learn_support=False).fit(
            digits[0], **part, resume=True
        )
    with pytest.raises(ValueError, match="independent_layers names"):
        TurboVBICompressor(trained, independent_layers=["fc9"])
    for name in ("independent_layers", "exclude"):
        for value in ("fc2", 3):
            with pytest.raises(TypeError, match=name):
                TurboVBICompressor(trained, **{name: value})


@pytest.mark.parametrize("before", [False, True])
def test_an_epoch_flushes_denormal_numbers_and_puts_their_state_back(before):
    def flushed():
        return float(torch.tensor(1e-40) * 1.0) == 0.0

    if not torch.set_flush_denormal(before):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        with pytest.raises(KeyboardInterrupt), training_epoch(0, 0):
            assert flushed()
            raise KeyboardInterrupt
        assert flushed() is before
    finally:
        torch.set_flush_denormal(False)
