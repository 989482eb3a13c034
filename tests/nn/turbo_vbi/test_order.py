"""Which weights leave first, by hand."""

import pytest
import torch

from isac_toolbox.nn.turbo_vbi.order import drop_until, least_certain_first, least_evidence_per_mac_first


def test_evidence_counts_per_mac_and_only_where_it_is_positive():
    support = {"a": torch.tensor([[1, 1], [1, 0]], dtype=torch.bool), "b": torch.ones(2, 2, dtype=torch.bool)}
    odds = {
        "a": torch.tensor([[3.0, -9.0], [5.0, 70.0]]),  # neurons with 3 and 5 nats: 70 is not kept
        "b": torch.tensor([[9.0, 3.0], [1.0, 0.5]]),  # 12 and 1.5 nats
    }
    # per MAC: 3 / 2, 5 / 2 against 12 / 10, 1.5 / 10; by the sum alone 1.5, 3, 5, 12
    order = least_evidence_per_mac_first(support, odds, {"a": 2, "b": 10})
    assert [part.tolist() for part in order] == [[6, 7], [4, 5], [0, 1], [2]]
    # a cost of zero: the neurons cannot leave
    order = least_evidence_per_mac_first(support, odds, {"a": 0, "b": 10})
    assert [part.tolist() for part in order] == [[6, 7], [4, 5]]


def test_equal_odds_are_told_apart_by_the_power():
    support = {"a": torch.tensor([[True, True, False]]), "b": torch.tensor([[True, True, True]])}
    odds = {"a": torch.tensor([[2.0, 1.0, 0.0]]), "b": torch.tensor([[1.0, 3.0, 1.0]])}
    power = {"a": torch.tensor([[1.0, 6.0, 0.0]]), "b": torch.tensor([[5.0, 0.0, 7.0]])}
    assert least_certain_first(support, odds, power).tolist() == [3, 1, 5, 0, 4]


@pytest.mark.parametrize("budget", range(7))
def test_as_few_as_it_takes_are_dropped(budget):
    support = {"a": torch.ones(2, 2, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)}
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    left = drop_until(support, order, lambda s: sum(int(m.sum()) for m in s.values()) <= budget)
    flat = torch.cat([mask.flatten() for mask in left.values()])
    assert (~flat).nonzero().flatten().tolist() == sorted(order[: 6 - budget].tolist())
    assert all(bool(mask.all()) for mask in support.values())


@pytest.mark.parametrize(("budget", "left"), [(6, 6), (5, 4), (4, 4), (3, 2), (2, 2), (1, 0), (0, 0)])
def test_positions_of_one_part_leave_together(budget, left):
    support = {"a": torch.ones(2, 2, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)}
    order = [torch.tensor([4, 0]), torch.tensor([5, 2]), torch.tensor([1, 3])]
    found = drop_until(support, order, lambda s: sum(int(m.sum()) for m in s.values()) <= budget)
    assert sum(int(mask.sum()) for mask in found.values()) == left
