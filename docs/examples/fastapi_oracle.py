"""An oracle in FastAPI, without rewardmesh: the protocol of docs/protocol.md by hand. How bright a picture is.

It needs fastapi, python-multipart, uvicorn, numpy and pillow. Serve it and ask it, on loopback:

    uvicorn fastapi_oracle:app --port 8801

    curl -s http://127.0.0.1:8801/v1/score -H 'Content-Type: application/json' -d '{"oracle": "brightness", "items": [
      {"sample": {"run_id": "r", "group_id": "g", "sample_id": "s", "policy_version": 0, "boundary_index": 4,
                  "prompt": "a white square", "checks": {"tag": "none"}}, "media_type": "image/png", "picture_base64":
       "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"}]}'

It answers {"oracle":"brightness","version":"1","results":[{"kind":"scored","sample_id":"s","reward":1.0,"detail":{}}]}
"""

import base64
import io
import json

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from PIL import Image

MAX_BATCH, MAX_PIXELS = 16, 2048 * 2048
INFO = {
    "name": "brightness",
    "version": "1",
    "reward_min": 0.0,
    "reward_max": 1.0,
    "media_types": ["image/png"],
    "max_batch": MAX_BATCH,
}

app = FastAPI()


@app.get("/v1/oracle")
def describe() -> dict:
    """What this oracle is."""
    return INFO


@app.get("/v1/health")
def health() -> dict:
    """It can score."""
    return {"status": "ok"}


@app.post("/v1/score")
async def score(request: Request) -> dict:
    """One result a sample; a request that makes no sense is refused as a whole."""
    try:
        items = await read(request)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HTTPException(400, f"not a request of the protocol: {error!r}") from error
    return {"oracle": INFO["name"], "version": INFO["version"], "results": [judge(*item) for item in items]}


async def read(request: Request) -> list[tuple[str, bytes]]:
    """Sample ids and picture bytes, from multipart (what rewardmesh's workers send) or from base64 JSON."""
    form = await request.form() if request.headers["content-type"].startswith("multipart/") else None
    batch = json.loads(await request.body() if form is None else form["request"])
    items = batch["items"]
    ids = [item["sample"]["sample_id"] for item in items]
    if batch["oracle"] != INFO["name"] or len(set(ids)) < len(ids) or not 1 <= len(ids) <= MAX_BATCH:
        raise ValueError("another oracle's name, one sample twice, or too many samples")
    if form is None:
        return [(one, base64.b64decode(item["picture_base64"])) for one, item in zip(ids, items, strict=True)]
    return [(one, await form[item["picture"]].read()) for one, item in zip(ids, items, strict=True)]


def judge(sample_id: str, data: bytes) -> dict:
    """A reward, or the failure of this picture alone."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > MAX_PIXELS or image.mode != "RGB":  # before any pixel is decoded
            return failed(sample_id, "it is too large, or no RGB")
        reward = float(np.asarray(image).mean() / 255)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return failed(sample_id, str(error))
    return {"kind": "scored", "sample_id": sample_id, "reward": reward, "detail": {}}


def failed(sample_id: str, detail: str) -> dict:
    """No reward, and why."""
    code = "invalid_picture"
    return {"kind": "failed", "sample_id": sample_id, "code": code, "detail": detail, "retryable": False}
