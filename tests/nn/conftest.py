"""Small data and networks."""

import pytest


@pytest.fixture(scope="session")
def digits():
    """Loaders of the training, validation and test images."""
    from isac_toolbox.nn import TensorLoader, load_digits_split

    train_set, validation, test = load_digits_split(0)
    return (
        TensorLoader.from_dataset(train_set, batch_size=64),
        TensorLoader.from_dataset(validation, batch_size=300, shuffle=False),
        TensorLoader.from_dataset(test, batch_size=300, shuffle=False),
    )


@pytest.fixture(scope="session")
def trained(digits):
    """A trained network on the digits; tests must not change it."""
    import torch

    from isac_toolbox.nn.models import mlp
    from isac_toolbox.nn.training import train

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp(64, (64, 32), 10)
    return train(model, digits[0], epochs=25, learning_rate=2e-3)
