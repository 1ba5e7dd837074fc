"""Which pairs of a group people are asked about. Says nothing of who is asked, or when."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from random import Random

from services.preference.model import Comparison, Group, QueueSettings

__all__ = ["comparisons_of"]

_Pair = tuple[int, int]


def comparisons_of(group: Group, settings: QueueSettings, *, seed: int = 0) -> list[Comparison]:
    """The questions about a group, in the order in which they are to be asked; the same for the same key and seed.

    Pairs: first a tree that connects all pictures, without which Bradley–Terry could not rank one part of the group
    against another; then as many more as the settings say. Both by the settings' pairing: the closest in the hint come
    first, or chance decides, as it does where a hint is missing. Never fewer than the tree has.

    Single pictures: each once, in an order of chance.
    """
    rng = Random(f"{seed} {group.key}")
    indices = list(range(len(group.pictures)))
    if settings.mode == "singles":
        rng.shuffle(indices)
        return [_question(group, number, index, None) for number, index in enumerate(indices)]
    pairs = list(combinations(indices, 2))
    rng.shuffle(pairs)
    hints = [picture.hint for picture in group.pictures if picture.hint is not None]
    if settings.pairing == "close" and len(hints) == len(indices):
        pairs.sort(key=lambda pair: abs(hints[pair[0]] - hints[pair[1]]))  # stable: ties are left to chance
    tree = _tree(pairs, len(indices))
    others = [pair for pair in pairs if pair not in set(tree)]
    chosen = tree + others[: max(0, settings.comparisons_per_group - len(tree))]
    return [_question(group, number, *pair) for number, pair in enumerate(chosen)]


def _question(group: Group, number: int, first: int, second: int | None) -> Comparison:
    return Comparison(comparison_id=f"{group.key}/{number:04d}", group_key=group.key, first=first, second=second)


def _tree(pairs: Iterable[_Pair], num_pictures: int) -> list[_Pair]:
    """Kruskal's: each pair in its turn that connects what was not connected yet."""
    part = list(range(num_pictures))
    tree = []
    for first, second in pairs:
        joined, into = part[second], part[first]
        if joined != into:
            tree.append((first, second))
            part = [into if one == joined else one for one in part]
    return tree
