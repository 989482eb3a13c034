"""
The same engine compresses a network
====================================

Every weight is a coefficient, every neuron a gate, and the weights of a neuron form a chain. A network of two
hidden layers on the 8 x 8 digits of scikit-learn, in a few seconds; needs ``pip install "isac_toolbox[nn]"``.
"""

import matplotlib.pyplot as plt
import torch

from isac_toolbox.nn import TensorLoader, TurboVBICompressor, load_digits_split, training
from isac_toolbox.nn.models import mlp

torch.manual_seed(0)
torch.set_num_threads(1)
train, validation, test = load_digits_split(seed=0)
loader = TensorLoader.from_dataset(train, batch_size=64)
dense = mlp(64, (64, 32), 10)
training.train(dense, loader, epochs=12, learning_rate=3e-3, seed=0)
compressor = TurboVBICompressor(
    dense, temperature=0.15, temperature_start=0.05, warmup_epochs=2, learning_rate=3e-3
)
compressor.fit(loader, epochs=18, teacher=dense)
compressor.finetune(loader, epochs=4, teacher=dense)

x, label = test.tensors
accuracy = (compressor.predict_proba(x).argmax(1) == label).float().mean()
report = compressor.report()
print(f"test accuracy {accuracy:.3f} with {report.density:.1%} of the weights")

# %%
# Rows are neurons, columns their inputs. Neurons without any weight are gone from the exported network.
mask = compressor.masked_model().fc1.weight.detach() != 0
fig, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
ax.imshow(mask, cmap="cividis", interpolation="nearest", aspect="auto")
ax.set(
    xlabel="pixel",
    ylabel="neuron of the first layer",
    title=f"{mask.any(1).sum()} of {len(mask)} neurons kept",
)
print(compressor.export())
