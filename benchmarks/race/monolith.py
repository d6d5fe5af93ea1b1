"""The peer that most would write: the models in the process of a FastAPI application, one request at a time.

    RACE_BUNDLES=ROOT uvicorn race.monolith:app --workers 2

A request is computed on the event loop. It is CPU work that holds the interpreter's lock, so a thread pool adds
hand-overs and no parallelism.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Response

from race.in_process import COUNT, InProcess

app = FastAPI(openapi_url=None)
_recommender = InProcess.open(Path(os.environ["RACE_BUNDLES"]))


@app.get("/recommend")
async def recommend(user_id: int, count: int = COUNT) -> Response:
    """The best `count` items for a user."""
    (answer,) = await _recommender.answers([_recommender.request(user_id, count)])
    return Response(_recommender.body(answer), media_type="application/json")
