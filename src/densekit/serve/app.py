"""The routes."""

import time
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline

from densekit import strict_json
from densekit.inference.classifier import Classifier
from densekit.serve import http_errors, page, prometheus
from densekit.serve.http_errors import Refusal
from densekit.serve.limits import Limits, read_image, read_images
from densekit.serve.middleware import RequestGuard
from densekit.serve.worker_pool import Answer, WorkerPool
from densekit.version import __version__

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGE = {"image/*": _BINARY, "application/octet-stream": _BINARY}
_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                    }
                },
            }
        }
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No image, an incomplete or too slow body"},
    401: {"description": "No token, or a wrong one"},
    413: {"description": "Too many bytes, pixels or files"},
    415: {"description": "Not an image, or of a kind that is not read"},
    422: {"description": "A damaged image, or a wrong parameter"},
    429: {"description": "The queue is full; see Retry-After"},
    503: {"description": "Starting, stopping, overloaded, or too late; see Retry-After"},
}
_RESPONSES = {status: row | _ERROR for status, row in _ERRORS.items()}

Top = Annotated[int | None, Query(ge=1, description="How many classes to name.")]
Invert = Annotated[bool, Query(description="Swap dark and light first.")]


def create_app(
    crew: WorkerPool, classifier: Classifier | None, limits: Limits, *, name: str, token: str | None = None
) -> FastAPI:
    """The routes around a crew. `classifier`, with torch in this process, is for the page.

    `name` is the model's. With a `token`, /v1/ and /metrics want it as Authorization: Bearer.
    """
    app = FastAPIOffline(
        redoc_url=None,
        title="densekit",
        version=__version__,
        description=f"Names what is in pictures, by {name}.",
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
        static_url="/docs/static",
    )
    http_errors.install(app)
    app.state.classifier, app.state.limits, app.state.crew = classifier, limits, crew

    def wrapped(inner: Any) -> RequestGuard:
        front = app.state.front = RequestGuard(inner, limits, crew.metrics, token)
        return front

    app.add_middleware(wrapped)

    @app.post("/v1/predict", responses=_RESPONSES, openapi_extra=_body(_IMAGE | _form("file", _BINARY["schema"])))
    async def predict(request: Request, top: Top = None, invert: Invert = False) -> Response:
        """One image, as the body or as `file` of a form -> `{"top": [...], "model", "milliseconds"}`."""
        began = time.perf_counter()
        content = await read_image(request)
        (answer,) = await crew.ask([content], top or limits.top, invert)
        if isinstance(answer, Refusal):
            raise answer
        return _json(_told(answer), name, began)

    many = {"type": "array", "items": _BINARY["schema"]}

    @app.post("/v1/predict/batch", responses=_RESPONSES, openapi_extra=_body(_form("files", many)))
    async def predict_batch(request: Request, top: Top = None, invert: Invert = False) -> Response:
        """Several images, each a `files` of a form -> `{"results": [...], "model", "milliseconds"}`, in order.

        A result is `{"file", "top"}` or `{"file", "error"}`: a bad image does not spoil the others.
        """
        began = time.perf_counter()
        files = await read_images(request)
        answers = await crew.ask([content for _, content in files], top or limits.top, invert)
        results = [{"file": file} | _told(answer) for (file, _), answer in zip(files, answers, strict=True)]
        return _json({"results": results}, name, began)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server is there at all."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _RESPONSES[503]})
    async def readyz() -> dict[str, Any]:
        """Whether images would be answered now, and by what."""
        if crew.stopping or not crew.ready or crew.engine is None:
            state = "stopping" if crew.stopping else "starting"
            raise Refusal(503, state, f"the server is {state}", retry_after=2)
        engine = {key: crew.engine[key] for key in ("name", "runtime", "threads")}
        return {"status": "ready", "model": name, "engine": engine}

    @app.get("/metrics", response_class=Response)
    async def measured() -> Response:
        """For Prometheus."""
        return Response(crew.metrics.text(), media_type=prometheus.TYPE)

    app.include_router(page.router)
    return app


def _told(answer: Answer) -> dict[str, Any]:
    """An image's part of a document; notices only where there are any."""
    if isinstance(answer, Refusal):
        return {"error": answer.document}
    return {key: value for key, value in answer.items() if value or key == "top"}


def _json(document: dict[str, Any], name: str, began: float) -> Response:
    milliseconds = round(1e3 * (time.perf_counter() - began), 2)
    text = strict_json.dumps(document | {"model": name, "milliseconds": milliseconds})
    return Response(text, media_type="application/json")


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": [name], "properties": {name: schema}}
    return {"multipart/form-data": {"schema": form}}
