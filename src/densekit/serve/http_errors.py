"""What the server refuses, as one type: a status, a code for programs, a message for people."""

import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from densekit.errors import BadImage

_IMAGE_STATUS = {
    "empty_file": 400,
    "too_many_pixels": 413,
    "out_of_memory": 413,
    "not_an_image": 415,
    "no_reader": 415,
    "unsupported_mode": 415,
}
"""By the decoder's code; the other ones are 422: of a kind that is read, but these bytes cannot be."""
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Refusal(Exception):
    """Answered as {"error": {"code", "message"}}; with `retry_after`, seconds, it may go better then."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        self.status = status
        self.code = code
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))
        super().__init__(message)

    @classmethod
    def of(cls, error: BadImage) -> "Refusal":
        """Of an image that cannot be decoded."""
        return cls(_IMAGE_STATUS.get(error.code, 422), error.code, str(error))

    @property
    def document(self) -> dict[str, str]:
        """What stands under "error"."""
        return {"code": self.code, "message": str(self)}

    def response(self) -> Response:
        """As HTTP."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.code == "too_slow":  # what is still to come is not waited for
            headers["Connection"] = "close"
        return JSONResponse({"error": self.document}, self.status, headers)


def install(app: FastAPI) -> None:
    """Lets `app` answer every error in the one form."""

    async def refused(request: Request, error: Exception) -> Response:
        response = _refusal(error).response()
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})  # the methods that are allowed
        return response

    for kind in (Refusal, BadImage, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, refused)


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, BadImage):
        return Refusal.of(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "the request"
        return Refusal(422, "invalid_parameter", f"{name}: {first['msg']}; see /docs")
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, _CODES.get(error.status_code, "refused"), f"{error.detail}; see /docs")
    if isinstance(error, ClientDisconnect):  # nobody will read this
        return Refusal(400, "gone", "the client closed the connection before its request was complete")
    return Refusal(500, "internal", "a fault of the server, which its log describes; the request may be sent again")
