"""A batch in pieces of whole groups, so that gradients of a large one fit into memory.

Groups are never cut: what the surrogates contrast is within a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.coordination import Workers

__all__ = ["MicroBatch", "micro_batches"]


class MicroBatch(NamedTuple):
    """One piece."""

    rows: slice
    share: float
    """What its mean counts in the mean over all samples: sums over pieces, means over workers, come to 1."""


def micro_batches(group_index: Tensor, *, at_most: int | None, workers: Workers) -> list[MicroBatch]:
    """Cuts samples [B], whose groups stand together, into pieces of `at_most` samples; one group at least, None: one.

    Every worker must ask at the same time.
    """
    count = torch.tensor([float(len(group_index))])
    workers.average([count])
    sizes = torch.bincount(group_index.cpu()).tolist()
    edges = [0]
    end = 0
    for size in sizes:
        if at_most is not None and end + size - edges[-1] > at_most and end > edges[-1]:
            edges.append(end)
        end += size
    rows = [slice(start, stop) for start, stop in zip(edges, [*edges[1:], end], strict=True)]
    return [MicroBatch(part, (part.stop - part.start) / float(count)) for part in rows]
