"""The page of `densekit serve`, and what it asks for besides predictions: facts about the model, and explanations.

It is plain HTML, CSS and JavaScript modules in `static/`, sent as they are. Nothing comes from another host, and
nothing inline is run or obeyed, whatever a class is called.
"""

import hashlib
import time
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response

from densekit.inference.classifier import Classifier
from densekit.serve.background import aside
from densekit.serve.explanation import capabilities, explain
from densekit.serve.http_errors import Refusal
from densekit.serve.ipc import pixels_of
from densekit.serve.limits import Limits, read_image
from densekit.serve.worker_pool import WorkerPool

router = APIRouter()

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": {"image/*": _PICTURE, "application/octet-stream": _PICTURE}}}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' blob: data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304: an update of densekit is seen at once
}


@dataclass(frozen=True)
class Asset:
    """A file of `static/`."""

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """By name; what a path of the URL may name is what is here, and nothing else."""
    found = {}
    for file in files("densekit.serve").joinpath("static").iterdir():
        media_type = _TYPES.get(PurePosixPath(file.name).suffix)
        if media_type is not None:
            content = file.read_bytes()
            found[file.name] = Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


@router.get("/", include_in_schema=False)
def page(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/assets/{name}", include_in_schema=False)
def asset(request: Request, name: str) -> Response:
    """A style sheet, a module or the icon."""
    return _answer(request, name)


@router.get("/v1/model")
def model(request: Request) -> dict[str, Any]:
    """What is served: name, architecture, classes, input, preprocessing, and what of its answers can be explained."""
    limits: Limits = request.app.state.limits
    return facts(_classifier(request)) | {"limits": {"body_bytes": limits.body_bytes, "pixels": limits.pixels}}


@router.post("/v1/explain", openapi_extra=_BODY)
async def explanation(
    request: Request,
    top: Annotated[int, Query(ge=1)] = 5,
    wanted: Annotated[list[int] | None, Query(alias="class")] = None,
    invert: bool = False,
) -> dict[str, Any]:
    """Where in one picture the evidence for each class lies, and which layers it came from.

    The picture is the raw body, or `file` of a multipart form. `class`, which may be repeated, asks for classes by
    index; without it the `top` most probable are explained. `invert` swaps dark and light first.
    """
    classifier = _classifier(request)
    count = len(classifier.classes)
    missing = [index for index in wanted or () if not 0 <= index < count]
    if missing:
        raise Refusal(
            422, "invalid_parameter", f"class={missing[0]} is no class of this model; it has {count}, counted from 0"
        )
    began = time.perf_counter()
    crew: WorkerPool = request.app.state.crew
    # A decoder has its limits from the worker: it may cost memory, or crash, and nobody starts this process again.
    (seen,) = await crew.ask([await read_image(request)], 0, invert)
    if isinstance(seen, Refusal):
        raise seen
    pixels, (width, height) = pixels_of(seen["pixels"]), seen["size"]
    found = await aside(request, partial(explain, classifier, pixels, (width, height), top=top, wanted=wanted or ()))
    milliseconds = round(1e3 * (time.perf_counter() - began), 2)
    return found | {"notices": seen["notices"], "milliseconds": milliseconds}


def facts(classifier: Classifier) -> dict[str, Any]:
    """Of a served model."""
    card = classifier.card
    preprocessing = card.preprocessing
    return {
        "name": card.model.name,
        "task": card.task,
        "classes": list(card.classes),
        "input": {
            "channels": preprocessing.channels,
            "height": preprocessing.size[0],
            "width": preprocessing.size[1],
        },
        "preprocessing": preprocessing.model_dump(mode="json"),
        "metrics": card.metrics,
        "capabilities": capabilities(classifier),
    }


def _classifier(request: Request) -> Classifier:
    """What is served, in this process. Raises Refusal where it is only elsewhere."""
    found: Classifier | None = request.app.state.classifier
    if found is None:
        raise Refusal(404, "no_model", "this server keeps no model where it could explain; use /v1/predict")
    return found


def _answer(request: Request, name: str) -> Response:
    found = assets().get(name)
    if found is None:
        raise HTTPException(404, f"no {name} here; the page is at /")
    headers = HEADERS | {"ETag": found.etag}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
