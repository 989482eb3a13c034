"""Heads and hidden units leave transformers of the library ``transformers``, tiny and with random weights."""

import logging
import warnings

import pytest
import torch

transformers = pytest.importorskip("transformers")

from isac_toolbox.nn import count_macs, shrink  # noqa: E402

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
WIDTH = 6  # of a head


def bert(attention):
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **SIZES)
    model = transformers.BertForSequenceClassification._from_config(config, attn_implementation=attention)
    ids = torch.randint(1, 50, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


def vit(attention):
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_channels=3, num_labels=3, **SIZES)
    model = transformers.ViTForImageClassification._from_config(config, attn_implementation=attention)
    return model, {"pixel_values": torch.randn(2, 3, 16, 16)}


def gpt2(attention):
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=24,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel._from_config(config, attn_implementation=attention)
    return model, {"input_ids": torch.randint(1, 50, (2, 7))}


def drop_heads_and_units(model):
    """Zero what the second head gives to the output projection, and every third hidden unit."""
    hidden = ("intermediate.dense", "mlp.c_fc", "mlp.fc1")
    for name, module in model.named_modules():
        across = type(module).__name__ == "Conv1D"  # weights of (inputs, outputs)
        if name.endswith(hidden):
            (module.weight.T if across else module.weight)[::3] = 0.0
            module.bias[::3] = 0.0
        if name.endswith(("attention.output.dense", "attn.c_proj", "attention.o_proj")):
            (module.weight if across else module.weight.T)[WIDTH : 2 * WIDTH] = 0.0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [bert, vit, gpt2])
def test_heads_and_units_leave(make, attention):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model, inputs = make(attention)
    model.eval()
    with torch.no_grad():
        drop_heads_and_units(model)
        wanted = model(**inputs).logits
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # nothing is refused
            small = shrink(model, inputs)
        torch.testing.assert_close(small(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)
        longer = {name: value if name == "pixel_values" else value[:1, :4] for name, value in inputs.items()}
        torch.testing.assert_close(small(**longer).logits, model(**longer).logits, atol=1e-5, rtol=1e-5)
    widths = {tuple(p.shape) for p in small.parameters() if p.ndim == 2}
    assert any(3 * WIDTH in shape for shape in widths) and not any(4 * 20 in shape for shape in widths)
    before, after = (sum(count_macs(m, inputs).values()) for m in (model, small))
    tokens = 17 if make is vit else 7
    units = 96 if make is gpt2 else 20
    # per layer: four projections of one head, its scores and its averages; a third of the hidden units
    head = tokens * 4 * 24 * WIDTH + 2 * tokens**2 * WIDTH
    assert before - after == 2 * (head + 2 * tokens * 24 * len(range(0, units, 3)))
