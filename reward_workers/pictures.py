"""Fits pictures to an oracle: what it does not open is re-encoded, losslessly, in a type that it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rewardmesh.wire.codec import PNG, RAW, WEBP, decode_picture, encode_picture, raw_media_type
from rewardmesh.wire.errors import PictureRejected
from rewardmesh.wire.messages import ScoreFailure
from rewardmesh.wire.stream import Claim

__all__ = ["fit_pictures"]

_BY_SIZE = (WEBP, PNG, RAW)  # smallest first


async def fit_pictures(claims: Sequence[Claim], media_types: Sequence[str]) -> list[tuple[str, bytes] | ScoreFailure]:
    """Media type and bytes for each claim, in a type among `media_types` (which have no parameters).

    A picture that cannot be re-encoded is a failure of its sample, `invalid_picture`.
    """
    accepted = {media_type.partition(";")[0].strip().lower() for media_type in media_types}
    if all(_bare(claim.media_type) in accepted for claim in claims):
        return [(claim.media_type, claim.picture) for claim in claims]
    return await asyncio.to_thread(lambda: [_fit(claim, accepted) for claim in claims])


def _fit(claim: Claim, accepted: set[str]) -> tuple[str, bytes] | ScoreFailure:
    if _bare(claim.media_type) in accepted:
        return claim.media_type, claim.picture
    target = next((media_type for media_type in _BY_SIZE if media_type in accepted), None)
    if target is None:
        return _rejected(claim, f"the oracle opens {', '.join(sorted(accepted))}; we write none of them losslessly")
    try:
        picture = decode_picture(claim.picture, claim.media_type)
        if target == RAW:
            target = raw_media_type(picture.shape[1], picture.shape[0])
        return target, encode_picture(picture, target)
    except PictureRejected as error:
        return _rejected(claim, str(error))


def _rejected(claim: Claim, detail: str) -> ScoreFailure:
    return ScoreFailure(sample_id=claim.sample.sample_id, code="invalid_picture", detail=detail, retryable=False)


def _bare(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
