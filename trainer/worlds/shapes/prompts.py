"""Prompts of the shapes world, their checks, and the split into training and held-out prompts.

A prompt's ``key`` names its combination of kind, objects, colours, count, relation and word. Combinations that mean
the same picture (``a circle left of a star``, ``a star right of a circle``) share one key, and training and held-out
prompts share none. Held out are they of rewards: pre-training and distillation, which know none, draw from all.
``single_object`` has six prompts only, too few to split: it is held out by seed, so the same six prompts stand in both
sets and evaluation uses noise that training never draws.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from typing import Any

from trainer.worlds.shapes.vocabulary import COLORS, COUNTS, KINDS, PLURALS, RELATIONS, SHAPES, WORDS

HELDOUT_SHARE = 0.25
"""Share of the combinations of a kind that post-training never sees."""
SEED_SPLIT_KINDS = ("single_object",)
"""Kinds whose prompts stand in both sets, because they are too few to split."""
_MIRRORED = {"right of": "left of", "below": "above"}


@dataclass(frozen=True)
class PromptSpec:
    """One prompt, what must be true of its picture, and the combination that it stands for."""

    prompt: str
    checks: dict[str, Any]
    """GenEval's metadata (``tag``, ``include``, ``exclude``), plus ``text`` for spelling."""
    kind: str
    key: str


def _a(words: str) -> str:
    return f"a {words}"


def _spec(kind: str, prompt: str, key: str, include: list[dict[str, Any]], **more: Any) -> PromptSpec:
    checks: dict[str, Any] = {"tag": kind, "include": include, **more}
    return PromptSpec(prompt=prompt, checks=checks, kind=kind, key=f"{kind}|{key}")


def single_object() -> list[PromptSpec]:
    """One of each shape."""
    return [_spec("single_object", _a(s), s, [{"class": s, "count": 1}]) for s in SHAPES]


def two_object() -> list[PromptSpec]:
    """Every ordered pair of different shapes; both orders are one combination."""
    return [
        _spec("two_object", f"a {a} and a {b}", "+".join(sorted((a, b))), [_one(a), _one(b)])
        for a, b in permutations(SHAPES, 2)
    ]


def counting() -> list[PromptSpec]:
    """So many of a shape and no more, of one colour or of any."""
    return [
        _spec(
            "counting",
            f"{word} {color} {PLURALS[s]}" if color else f"{word} {PLURALS[s]}",
            f"{n} {color or 'any'} {s}",
            [{"class": s, "count": n, **({"color": color} if color else {})}],
            exclude=[{"class": s, "count": n + 1}],
        )
        for n, word in COUNTS.items()
        for color in (None, *COLORS)
        for s in SHAPES
    ]


def colors() -> list[PromptSpec]:
    """Every shape in every colour."""
    return [_spec("colors", f"a {c} {s}", f"{c} {s}", [_one(s, color=c)]) for c in COLORS for s in SHAPES]


def position() -> list[PromptSpec]:
    """``include`` lists the reference first, as GenEval does, so that the second clause can point at it."""
    specs = []
    for a, b in permutations(SHAPES, 2):
        for relation in RELATIONS:
            first, second, canonical = (a, b, relation) if relation not in _MIRRORED else (b, a, _MIRRORED[relation])
            key = f"{first} {canonical} {second}"
            specs.append(_spec("position", f"a {a} {relation} a {b}", key, [_one(b), _one(a, position=[relation, 0])]))
    return specs


def color_attr() -> list[PromptSpec]:
    """Two shapes, each in a colour of its own."""
    specs = []
    for a, b in combinations(SHAPES, 2):
        for ca, cb in permutations(COLORS, 2):
            include = [_one(a, color=ca), _one(b, color=cb)]
            specs.append(_spec("color_attr", f"a {ca} {a} and a {cb} {b}", f"{ca} {a}+{cb} {b}", include))
    return specs


def spelling() -> list[PromptSpec]:
    """A quoted word."""
    return [_spec("spelling", f'the word "{word}"', word, [], text=word) for word in WORDS]


def _one(shape: str, **more: Any) -> dict[str, Any]:
    return {"class": shape, "count": 1, **more}


@cache
def all_prompts() -> tuple[PromptSpec, ...]:
    """Every prompt of the world, in the order of ``KINDS``: what pre-training and distillation draw from."""
    makers = {
        "single_object": single_object,
        "two_object": two_object,
        "counting": counting,
        "colors": colors,
        "position": position,
        "color_attr": color_attr,
        "spelling": spelling,
    }
    return tuple(spec for kind in KINDS for spec in makers[kind]())


@cache
def _heldout_keys() -> frozenset[str]:
    """A quarter of the keys of each kind."""
    chosen: set[str] = set()
    for kind in KINDS:
        if kind not in SEED_SPLIT_KINDS:
            keys = {s.key for s in all_prompts() if s.kind == kind}
            chosen.update(_spread(keys, round(HELDOUT_SHARE * len(keys))))
    return frozenset(chosen)


def _spread(keys: Iterable[str], number: int) -> list[str]:
    """So many keys, chosen one by one: whose words were chosen least so far, and of equals by hash.

    No shape, colour, count or relation is then held out much more often than the next.
    """
    left = sorted(keys, key=_rank)
    taken: Counter[str] = Counter()
    chosen = []
    for _ in range(number):
        chosen.append(min(left, key=lambda key: sum(taken[word] for word in _words(key))))
        left.remove(chosen[-1])
        taken.update(_words(chosen[-1]))
    return chosen


def _words(key: str) -> list[str]:
    return [word for word in re.split(r"[ +]", key.partition("|")[2]) if word != "of"]


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def train_prompts() -> list[PromptSpec]:
    """Prompts that rewards are learnt of."""
    return [s for s in all_prompts() if s.key not in _heldout_keys()]


def heldout_prompts() -> list[PromptSpec]:
    """Prompts for evaluation only; those of ``SEED_SPLIT_KINDS`` are held out by seed."""
    return [s for s in all_prompts() if s.key in _heldout_keys() or s.kind in SEED_SPLIT_KINDS]
