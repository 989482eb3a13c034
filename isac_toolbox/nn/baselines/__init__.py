"""Other compression methods with one interface (docs/theory-networks.md, section 8).

Every function takes a trained dense model, a loader and numbers of epochs, and returns the masked model at
the given density with its report.
"""

from isac_toolbox.nn.baselines.common import BaselineResult, Finetuning
from isac_toolbox.nn.baselines.dropout import sparse_variational_dropout
from isac_toolbox.nn.baselines.group_lasso import group_lasso
from isac_toolbox.nn.baselines.magnitude import magnitude
from isac_toolbox.nn.baselines.torch_pruning import torch_pruning

__all__ = [
    "BaselineResult",
    "Finetuning",
    "group_lasso",
    "magnitude",
    "sparse_variational_dropout",
    "torch_pruning",
]
