"""What torch imports only when it is first used is imported here, outside the time limit of a single test."""

from __future__ import annotations

import torch

torch.testing.assert_close(torch.zeros(1), torch.zeros(1))
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
