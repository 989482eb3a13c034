"""The loss of fine-tuning with a teacher."""

import torch
from torch.nn import functional as F

from isac_toolbox.nn.objective import distillation_loss


def test_the_mixture_by_its_formula():
    generator = torch.Generator().manual_seed(0)
    z, teacher = (3.0 * torch.randn(6, 4, generator=generator) for _ in range(2))
    y = torch.randint(4, (6,), generator=generator)
    part, softness = 0.3, 2.5
    p, q = (torch.softmax(logits / softness, 1) for logits in (teacher, z))
    divergence = (p * (p / q).log()).sum(1).mean()
    wanted = (1.0 - part) * F.cross_entropy(z, y) + part * softness**2 * divergence
    torch.testing.assert_close(distillation_loss(z, y, teacher, part, softness), wanted)
    torch.testing.assert_close(distillation_loss(z, y, None, part), F.cross_entropy(z, y))
    halves = distillation_loss(z, y, teacher, part, softness, hard_loss=lambda a, b: torch.tensor(0.5))
    torch.testing.assert_close(halves, 0.5 * (1.0 - part) + part * softness**2 * divergence)
