"""Networks of the experiments, as plain modules (docs/theory-networks.md, section 7)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from isac_toolbox._validation import check_integer

__all__ = ["lenet_5", "lenet_300_100", "mlp", "resnet18"]


def mlp(in_features: int, hidden: Sequence[int], n_classes: int) -> nn.Sequential:
    """Return a ReLU network of linear layers named ``fc1``, ``fc2``, ...; inputs of any shape are flattened.

    Parameters
    ----------
    in_features : int
        Number of input values.
    hidden : sequence of int
        Width of each hidden layer.
    n_classes : int
        Number of outputs.

    Returns
    -------
    nn.Sequential
    """
    widths = [check_integer("in_features", in_features, 1)]
    widths += [check_integer("hidden", width, 1) for width in hidden]
    widths += [check_integer("n_classes", n_classes, 1)]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (a, b) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(a, b)
        if i < len(widths) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def lenet_300_100(in_features: int = 784, n_classes: int = 10) -> nn.Sequential:
    """Return LeNet-300-100: two hidden layers of 300 and 100 units.

    Parameters
    ----------
    in_features : int
        Number of input values.
    n_classes : int
        Number of outputs.

    Returns
    -------
    nn.Sequential

    Notes
    -----
    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    return mlp(in_features, (300, 100), n_classes)


def lenet_5(
    in_channels: int = 1,
    image_size: int = 28,
    n_classes: int = 10,
    widths: tuple[int, int, int] = (20, 50, 500),
) -> nn.Sequential:
    """Return LeNet-5 as in the pruning literature: two 5 x 5 convolutions and two linear layers.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    image_size : int
        Height and width in pixels, at least 16.
    n_classes : int
        Number of outputs.
    widths : (int, int, int)
        Filters of both convolutions and units of the hidden linear layer.

    Returns
    -------
    nn.Sequential
    """
    check_integer("in_channels", in_channels, 1)
    side = ((check_integer("image_size", image_size, 16) - 4) // 2 - 4) // 2
    first, second, hidden = (check_integer("widths", width, 1) for width in widths)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, first, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * side * side, hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, check_integer("n_classes", n_classes, 1)),
        )
    )


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and a shortcut around them."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def resnet18(width: int = 64, in_channels: int = 1, n_classes: int = 10) -> nn.Sequential:
    """Return a ResNet-18 for images of 28 x 28 or 32 x 32 pixels (3 x 3 stem, no first pooling).

    Parameters
    ----------
    width : int
        Channels of the first stage; the stages have 1, 2, 4 and 8 times as many.
    in_channels, n_classes : int
        Channels of the image, number of outputs.

    Returns
    -------
    nn.Sequential

    Notes
    -----
    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016.
    """
    width = check_integer("width", width, 1)
    stages: list[nn.Module] = []
    n_in = width
    for i, stride in enumerate((1, 2, 2, 2)):
        n_out = width * 2**i
        stages.append(nn.Sequential(_Block(n_in, n_out, stride), _Block(n_out, n_out, 1)))
        n_in = n_out
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(check_integer("in_channels", in_channels, 1), width, 3, 1, 1, bias=False),
            bn=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
            **{f"stage{i}": stage for i, stage in enumerate(stages, start=1)},
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(n_in, check_integer("n_classes", n_classes, 1)),
        )
    )
