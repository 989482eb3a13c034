"""What both commands ``isac nn`` let one choose."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["DataName", "ModelName"]


class ModelName(StrEnum):
    """Networks of the command line."""

    lenet_300_100 = "lenet-300-100"
    lenet_5 = "lenet-5"
    digits_mlp = "digits-mlp"


class DataName(StrEnum):
    """Data sets of the command line."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"
