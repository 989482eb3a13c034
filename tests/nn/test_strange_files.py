"""Files of networks that are whole but hold what no version wrote: refused by name, the model as it was."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.examples import examples
from helpers.families import FAMILIES, draw
from helpers.faults import DOCUMENTED, fingerprint, tally
from isac_toolbox.nn import load_compressed, save_compressed, shrink
from isac_toolbox.nn._tensor_files import read_tensors, write_tensors
from isac_toolbox.nn.models import mlp

WIDTHS = (4, (3,), 2)
KINDS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
TENSORS = st.builds(
    lambda shape, kind, seed: torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(seed)).to(
        kind
    ),
    st.lists(st.integers(0, 5), max_size=3),
    KINDS,
    st.integers(0, 99),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**70), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    model = mlp(*WIDTHS)
    masks = {n: torch.rand(m.weight.shape) < 0.5 for n, m in model.named_modules() if hasattr(m, "weight")}
    for name, mask in masks.items():
        model.get_submodule(name).weight.data.mul_(mask)
    return read_tensors(save_compressed(tmp_path_factory.mktemp("whole") / "net", model, masks))


def test_tensors_and_descriptions_of_any_kind(whole, tmp_path_factory):
    layers = json.loads(whole.metadata["layers"])
    parts = sorted({part for about in layers.values() for part in about})
    names = st.sampled_from([*sorted(whole.tensors), "own"])
    described = st.one_of(
        st.just(layers),
        JSON,
        st.builds(
            lambda layer, part, value: {**layers, layer: {**layers[layer], part: value}},
            st.sampled_from(sorted(layers)),
            st.sampled_from([*parts, "own"]),
            JSON,
        ),
    )

    @given(st.dictionaries(names, TENSORS, max_size=2), st.sets(names, max_size=1), described)
    @examples(50)
    def check(strange, missing, about):
        path = tmp_path_factory.mktemp("strange") / "net.safetensors"
        tensors = {n: t for n, t in (whole.tensors | strange).items() if n not in missing}
        write_tensors(path, tensors, whole.metadata | {"layers": json.dumps(about)})
        fresh = mlp(*WIDTHS)
        before = fingerprint(fresh.state_dict())
        try:
            load_compressed(path, fresh)
        except DOCUMENTED as error:
            assert path.name in str(error), repr(error)
            assert fingerprint(fresh.state_dict()) == before
            tally("network, tensors of any kind", "refused by name")
        else:
            assert {n: v.shape for n, v in fresh.state_dict().items()} == {
                n: v.shape for n, v in mlp(*WIDTHS).state_dict().items()
            }
            tally("network, tensors of any kind", "another one, as good")

    check()


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 10**6))
@examples(15)
def test_networks_of_any_structure_shrink_to_the_same_outputs(family, seed):
    model, x = draw(family, seed)
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = model(x)
        small = shrink(model, x)
        torch.manual_seed(0)
        assert float((small(x) - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
