import pytest
import torch
from torch import nn

from isac_toolbox.nn import to_block_sparse
from isac_toolbox.nn.export.block_sparse import BlockSparseLinear


def sparse_linear(n_in, n_out, block, bias=True):
    """A layer in which every third block has weights."""
    torch.manual_seed(0)
    layer = nn.Linear(n_in, n_out, bias=bias)
    rows, columns = torch.arange(n_out) // block, torch.arange(n_in) // block
    layer.weight.data *= (rows[:, None] + columns) % 3 == 0
    return layer


@pytest.mark.parametrize("block", [1, 4, 8])
@pytest.mark.parametrize(("n_in", "n_out"), [(24, 16), (22, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_in_blocks_is_the_product(block, n_in, n_out, bias):
    layer = sparse_linear(n_in, n_out, block, bias)
    fast = BlockSparseLinear(layer, block)
    for shape in ((5,), (2, 3), ()):
        x = torch.randn(*shape, n_in)
        torch.testing.assert_close(fast(x), layer(x), atol=1e-5, rtol=1e-5)
    assert fast.filled < 0.5
    assert fast.values.numel() == round(fast.filled * fast.shape[0] * fast.shape[1])


def test_sparse_layers_are_replaced_and_dense_ones_stay():
    model = nn.Sequential(sparse_linear(24, 24, 4), nn.ReLU(), nn.Linear(24, 3)).eval()
    fast = to_block_sparse(model, 4, below=0.5)
    assert [type(m).__name__ for m in fast] == ["BlockSparseLinear", "ReLU", "Linear"]
    assert isinstance(model[0], nn.Linear)
    x = torch.randn(4, 24)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
    twin = to_block_sparse(model, 4, below=0.5)
    twin.load_state_dict(fast.state_dict())
    assert "block=4" in repr(fast)


def test_what_is_not_replaced_is_said():
    with pytest.warns(UserWarning, match="none is replaced"):
        to_block_sparse(nn.Sequential(nn.Linear(8, 8)), 4)
    with pytest.raises(ValueError, match="block must be at least 1"):
        to_block_sparse(nn.Linear(8, 8), 0)
    with pytest.raises(TypeError, match="model must be"):
        to_block_sparse("net")
