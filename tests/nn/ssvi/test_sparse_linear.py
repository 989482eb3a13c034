"""The sparse product against the dense one."""

import pytest
import torch

from isac_toolbox.nn.ssvi.sparse_linear import compressed_rows, sparse_linear


@pytest.mark.parametrize("lead", [(7,), (2, 3), ()])
def test_sparse_product_equals_the_dense_one(lead):
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(40 * 30, generator=generator)[:90].sort().values
    x = torch.randn((*lead, 30), generator=generator, requires_grad=True)
    values = torch.randn(90, generator=generator, requires_grad=True)
    dense = torch.zeros(1200).scatter(0, index, values).reshape(40, 30)
    slope = torch.randn((*lead, 40), generator=generator)
    wanted = torch.autograd.grad((x @ dense.t() * slope).sum(), (x, values))
    y = sparse_linear(x, values, *compressed_rows(index, 40, 30))
    torch.testing.assert_close(y, x @ dense.t(), atol=1e-5, rtol=1e-4)
    for got, want in zip(torch.autograd.grad((y * slope).sum(), (x, values)), wanted):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_input_without_gradient():
    starts, columns = compressed_rows(torch.tensor([0, 5]), 2, 3)
    values = torch.ones(2, requires_grad=True)
    sparse_linear(torch.tensor([[1.0, 2.0, 3.0]]), values, starts, columns).sum().backward()
    assert values.grad.tolist() == [1.0, 3.0]
