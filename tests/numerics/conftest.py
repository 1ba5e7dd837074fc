"""What torch imports only when it is first used is imported here, outside the time limit of a single test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.testing.assert_close(torch.zeros(1), torch.zeros(1))
torch.optim.Adam([torch.zeros(1, requires_grad=True)])


@pytest.fixture(autouse=True)
def every_warning_counts() -> Iterator[None]:
    """torch warns of a thing once a process, which would fail whichever test comes first and no other."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)
