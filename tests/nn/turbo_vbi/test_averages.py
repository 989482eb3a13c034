"""Averages of gradient and curvature, by hand."""

import torch

from isac_toolbox.nn.turbo_vbi.prior import Curvature


def test_averages_forget_geometrically_and_do_not_know_their_start():
    average, gradients, slopes = Curvature(torch.zeros(2), decay=0.9), [3.0, -1.0, 2.0], [0.5, 1.5, 4.0]
    for g, s in zip(gradients, slopes):
        average.add(torch.tensor([g, 2.0 * g]), torch.tensor([s, 3.0 * s]))
    weights = torch.tensor([0.81, 0.9, 1.0])
    weights /= weights.sum()
    g, h = float(weights @ torch.tensor(gradients)), 2.0 * float(weights @ torch.tensor(slopes))
    torch.testing.assert_close(average.mean_gradient, torch.tensor([g, 2.0 * g]))
    torch.testing.assert_close(average.mean_curvature, torch.tensor([h, 3.0 * h]))


def test_the_floor_is_a_thousandth_of_the_mean_of_what_is_positive():
    average = Curvature(torch.zeros(4), decay=0.5)
    average.add(torch.zeros(4), torch.tensor([6.0, -10.0, 2.0, 1e-6]))
    floor = 1e-3 * (12.0 + 4.0 + 2e-6) / 4
    torch.testing.assert_close(average.mean_curvature, torch.tensor([12.0, floor, 4.0, floor]))
