"""Servers in threads, and a browser to drive their page with."""

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from densekit.engine import Classifier
from densekit.serve.limits import Limits, read_image
from densekit.serve.page import router
from densekit.serve.refusal import install


def app_of(classifier: Classifier, limits: Limits) -> FastAPI:
    app = FastAPI()
    app.state.classifier = classifier
    app.state.limits = limits
    install(app)
    app.include_router(router)

    @app.post("/v1/predict")
    async def predict(request: Request, top: int = 3, invert: bool = False):
        begun = time.perf_counter()
        prediction = classifier.predict(await read_image(request), invert=invert)
        return {
            "top": prediction.top(top),
            "model": "x",
            "notices": prediction.notices,
            "milliseconds": 1000 * (time.perf_counter() - begun),
        }

    return app


@contextmanager
def served(classifier: Classifier, **limits: float) -> Iterator[str]:
    """The URL of a server of this classifier."""
    app = app_of(classifier, Limits(**limits))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


class Tab:
    """A page in a browser of one person, with what it complained about and whom it asked."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(
            **({"locale": "en-US", "viewport": {"width": 1280, "height": 900}} | context)
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def open(self) -> "Tab":
        self.page.goto(self.url)
        self.page.locator("#intake").wait_for()
        return self

    def choose(self, *files: Any) -> None:
        self.page.set_input_files("#choose", list(files))

    def answers(self, count: int = 1) -> list[str]:
        """What the cards say, as soon as so many have an answer."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('.card[data-state=answered]').length >= count", arg=count
        )
        return self.page.locator(".card[data-state=answered] .headline b").all_inner_texts()

    def overhear(self) -> list[dict[str, Any]]:
        """From now on, the explanations that the server gives."""
        heard: list[dict[str, Any]] = []

        def passed(route: Any) -> None:
            response = route.fetch()
            heard.append(response.json())
            route.fulfill(response=response)

        self.page.route("**/v1/explain*", passed)
        return heard

    def explained(self) -> Any:
        """The first card, as soon as it says why."""
        card = self.page.locator(".card").first
        card.locator("canvas").wait_for()
        return card

    def overflow(self) -> int:
        """Pixels by which the page is too wide."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def close(self) -> None:
        self.context.close()


def bytes_of(pixels: Any, kind: str = "png") -> bytes:
    """A picture as a file's content."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()
