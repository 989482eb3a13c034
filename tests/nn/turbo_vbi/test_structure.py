from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from isac_toolbox.inference import GatedChain, IndependentSupport
from isac_toolbox.nn import CompressionSettings, TensorLoader, TurboVBICompressor, compress, models, shrink
from isac_toolbox.nn.turbo_vbi.structure import AtMostSupport, BlockSupport, is_kept


def marginal_odds(L, log_prior):
    """Posterior log-odds of every variable, by summing over all supports."""
    n = len(L)
    total = np.zeros((n, 2))
    for support in product((0, 1), repeat=n):
        weight = np.exp(log_prior(np.array(support)) + np.dot(support, L))
        for i, s in enumerate(support):
            total[i, s] += weight
    return np.log(total[:, 1] / total[:, 0])


def test_at_most_two_of_four_is_the_sum_over_all_supports():
    L = np.random.default_rng(0).normal(0.0, 2.0, (2, 6))  # the last two of a row have only two neighbours
    graph = AtMostSupport((2, 6), 2, 4)
    found = L.ravel() + graph.extrinsic_log_odds(L.ravel())
    for row, odds in zip(L, found.reshape(2, 6), strict=True):
        first = marginal_odds(row[:4], lambda s: 0.0 if s.sum() <= 2 else -np.inf)
        np.testing.assert_allclose(odds, np.concatenate([first, row[4:]]), atol=1e-12)


def test_a_block_is_one_variable_with_the_sum_of_the_evidence():
    L = np.random.default_rng(1).normal(0.0, 1.5, (4, 5))
    chain = GatedChain([3, 3], gate=0.4, p_first=0.3, p01=0.1, p11=0.7)
    graph = BlockSupport(chain, (4, 5), (2, 2))  # 2 x 3 blocks, the last ones with one column
    sums = np.array([[L[i : i + 2, j : j + 2].sum() for j in (0, 2, 4)] for i in (0, 2)])

    def log_prior(support):
        rows = []
        for s in np.reshape(support, (2, 3)):
            p = [0.3, *(0.7 if s[k] else 0.1 for k in range(2))]
            inside = np.prod([q if on else 1.0 - q for q, on in zip(p, s, strict=True)])
            rows.append(0.4 * inside + 0.6 * (not s.any()))
        return np.log(np.prod(rows))

    wanted = marginal_odds(sums.ravel(), log_prior).reshape(2, 3)
    odds = (L.ravel() + graph.extrinsic_log_odds(L.ravel())).reshape(4, 5)
    np.testing.assert_allclose(odds, wanted[np.ix_([0, 0, 1, 1], [0, 0, 1, 1, 2])], atol=1e-11)
    assert graph.learned(L.ravel()).graph.gate == chain.learned(sums.ravel()).gate
    assert len(set(is_kept(np.where(np.arange(20) % 2, 1.0, -1.1), graph).reshape(4, 5)[:2, :2].ravel())) == 1


def test_blocks_of_one_are_the_plain_graph():
    L = np.random.default_rng(2).normal(0.0, 1.0, 12)
    plain = IndependentSupport(12, 0.3)
    np.testing.assert_allclose(
        BlockSupport(plain, (3, 4), (1, 1)).extrinsic_log_odds(L), plain.extrinsic_log_odds(L), atol=1e-12
    )
    with pytest.raises(ValueError, match="12 blocks"):
        BlockSupport(plain, (3, 4), (2, 2))


def data(n=256):
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    return TensorLoader(x, (x[:, 0] + x[:, 1] > 0).long(), batch_size=16)


@pytest.mark.parametrize("limit", [None, 0.02])
def test_a_fit_keeps_whole_blocks(limit):
    torch.manual_seed(0)
    compressor = TurboVBICompressor(
        models.mlp(16, (32,), 2), block=4, temperature=0.02, warmup_epochs=1, max_loss_drop=limit
    )
    compressor.fit(data(), epochs=8, progress=False)
    name = next(iter(compressor.layers))
    odds = compressor.priors[name].log_odds
    blocks = odds.reshape(8, 4, 4, 4)
    assert torch.equal(blocks.amax((1, 3)), blocks.amin((1, 3)))
    support = compressor.support()[name]
    assert 0 < int(support.sum()) < support.numel()
    connected = support.any(1)[:, None] & support.any(0)  # neurons may leave inside a block
    whole = support.reshape(8, 4, 4, 4).any(3, keepdim=True).any(1, keepdim=True).expand(8, 4, 4, 4)
    assert torch.equal(support, whole.reshape(32, 16) & connected)
    with pytest.raises(ValueError, match="fill_neurons"):
        compressor.fill_neurons()


def test_two_of_four_stay_in_every_row():
    torch.manual_seed(1)
    settings = CompressionSettings(n_of_m=(2, 4), warmup_epochs=1)
    network = models.mlp(16, (32, 32), 2)
    result = compress(network, data(), settings=settings, epochs=8, max_loss_drop=0.2, progress=False)
    masks = result.compressor.support()
    assert not any(bool(mask.all()) for mask in masks.values())
    for mask in masks.values():
        assert int(mask.reshape(len(mask), -1, 4).sum(2).max()) <= 2
    assert result.report.density <= 0.5


def test_a_head_shares_one_gate():
    settings = CompressionSettings(gate_rows={"q": 8}).prior_of("q")
    graph = settings.graph(torch.Size((16, 10)))
    assert graph.group_sizes.tolist() == [80, 80]
    with pytest.raises(ValueError, match="gate_rows must divide"):
        settings.graph(torch.Size((12, 10)))
    with pytest.raises(ValueError, match="gate_rows"):
        TurboVBICompressor(models.mlp(4, (8,), 2), gate_rows={"nowhere": 2})


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(2, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


def test_without_its_values_a_head_leaves_with_queries_and_keys():
    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(2, 5, 12)
    with torch.no_grad():
        model.v.weight[4:8] = 0.0
        small = shrink(model, x)
        torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)
    assert [len(layer.weight) for layer in (small.q, small.k, small.v)] == [8, 8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_of_m": (4, 4)}, "n < m"),
        ({"n_of_m": (2, 4), "block": 4}, "block=1"),
        ({"block": 0}, "block must be at least 1"),
        ({"n_of_m": 2}, "n_of_m must be two integers"),
    ],
)
def test_patterns_that_make_no_sense(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CompressionSettings(**changes)
