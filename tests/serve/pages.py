"""Servers in threads, for models and limits that a command cannot be given, and people with browsers."""

import io
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from PIL import Image

from densekit.errors import BadImage
from densekit.inference.classifier import Classifier
from densekit.serve import ipc
from densekit.serve.app import create_app
from densekit.serve.http_errors import Refusal
from densekit.serve.limits import Limits
from densekit.serve.prometheus import Metrics
from densekit.serve.worker_pool import Answer, WorkerPool


class Here(WorkerPool):
    """A crew without a process: this one answers, by torch."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        super().__init__("here", limits, Metrics())
        self.ready = True
        self.classifier = classifier

    async def ask(self, images: Sequence[bytes], top: int, invert: bool = False) -> list[Answer]:
        if not top:
            return [self._seen(content, invert) for content in images]
        outcomes = self.classifier.predict_each(images, invert=invert, max_pixels=self.limits.pixels)
        return [
            Refusal.of(outcome)
            if isinstance(outcome, BadImage)
            else {"top": outcome.top(top), "notices": list(outcome.notices)}
            for outcome in outcomes
        ]

    def _seen(self, content: bytes, invert: bool) -> Answer:
        try:
            image = self.classifier.decode(content, self.limits.pixels)
        except BadImage as error:
            return Refusal.of(error)
        pixels, notices = self.classifier.pixels([image.image], invert), self.classifier.notices(image, invert)
        return {"pixels": ipc.image(pixels), "size": list(image.image.size), "notices": list(notices)}


def app_of(classifier: Classifier, limits: Limits) -> FastAPI:
    """The server's own routes."""
    return create_app(Here(classifier, limits), classifier, limits, name=classifier.card.model.name)


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
        self.context.set_default_timeout(90_000)  # milliseconds; a busy machine is slow
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

    def opened(self) -> Any:
        """The first card, as soon as it also says which layers it drew on: by one click."""
        card = self.explained()
        card.locator("summary").click()
        card.locator(".diagram svg").last.wait_for()
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
