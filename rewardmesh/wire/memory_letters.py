"""Dead letters of one oracle in memory: bounded in number, and their pictures in bytes; the oldest go first."""

from __future__ import annotations

from dataclasses import replace

from rewardmesh.wire.errors import UnknownLetter
from rewardmesh.wire.messages import ScoreFailure
from rewardmesh.wire.stream import DeadLetter, PendingSample, StreamSettings

__all__ = ["MemoryLetters"]


class MemoryLetters:
    """What failed for one oracle, by letter id, oldest first."""

    def __init__(self, oracle: str, settings: StreamSettings) -> None:
        self._oracle = oracle
        self._settings = settings
        self._by_id: dict[str, DeadLetter] = {}
        self._num_buried = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def bury(self, request: PendingSample, failure: ScoreFailure, *, attempts: int, holds_picture: bool) -> None:
        budget = self._settings.dead_letter_bytes
        self._num_buried += 1
        letter_id = f"{self._num_buried}-0"
        self._by_id[letter_id] = DeadLetter(
            letter_id=letter_id,
            sample=request.sample,
            oracle=self._oracle,
            failure=failure,
            attempts=attempts,
            picture=request.picture if holds_picture and len(request.picture) <= budget else None,
            media_type=request.media_type,
        )
        while len(self._by_id) > self._settings.max_dead_letters:
            del self._by_id[next(iter(self._by_id))]
        in_use = sum(len(letter.picture or b"") for letter in self._by_id.values())
        for oldest, letter in list(self._by_id.items()):
            if in_use <= budget:
                break
            in_use -= len(letter.picture or b"")
            self._by_id[oldest] = replace(letter, picture=None)

    def latest(self, max_count: int) -> list[DeadLetter]:
        return list(reversed(self._by_id.values()))[:max_count]

    def get(self, letter_id: str) -> DeadLetter:
        if letter_id not in self._by_id:
            raise UnknownLetter("no such dead letter", f"{letter_id} of {self._oracle}", "list those that there are")
        return self._by_id[letter_id]

    def discard(self, letter_id: str) -> bool:
        return self._by_id.pop(letter_id, None) is not None
