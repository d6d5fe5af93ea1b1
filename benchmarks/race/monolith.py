"""The peer that most would write: the models in the process of a FastAPI application, one request at a time.

    RACE_BUNDLES=ROOT uvicorn race.monolith:app --workers 2

A request is computed on the event loop: it is work for the processor that mostly holds the interpreter's lock, so a
thread pool adds hand-overs and no parallelism.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Response

from race.in_process import InProcess

app = FastAPI(openapi_url=None)
_recommender = InProcess.open(Path(os.environ["RACE_BUNDLES"]))


@app.get("/recommend")
async def recommend(user_id: int, count: int = 10) -> Response:
    """The best `count` items for a user."""
    (body,) = _recommender.bodies([user_id], count)
    return Response(body, media_type="application/json")
