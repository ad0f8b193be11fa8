"""khabar inside a FastAPI application: one model, loaded with the application, for all requests.

uvicorn fastapi_app:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import khabar

AT_ONCE = 2  # a model takes all cores for one article: more at a time would only wait for each other


class News(BaseModel):
    """An article."""

    text: str


class Summary(BaseModel):
    """What it reports, and where."""

    topics: list[str]
    places: list[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request."""
    app.state.tagger = await to_thread.run_sync(khabar.load)
    app.state.limiter = CapacityLimiter(AT_ONCE)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/summary")
async def summary(news: News) -> Summary:
    """Tell an article's topics and the places it names."""
    try:
        # In a thread, so that the application answers others meanwhile.
        article = await to_thread.run_sync(app.state.tagger.tag, news.text, limiter=app.state.limiter)
    except khabar.KhabarError as error:
        raise HTTPException(422, str(error)) from None
    places = {entity.text: None for entity in article.entities if entity.label == "LOCATION"}
    return Summary(topics=[topic.label for topic in article.topics], places=list(places))
