"""What a request may cost, and reading its images within that."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Self

from fastapi import Request
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from densekit.config import Frozen
from densekit.serve.http_errors import Refusal

_RAW = ("image/", "application/octet-stream", "application/dicom", "application/x-www-form-urlencoded")
"""Types of a body that is an image; the last is what curl says where nobody tells it."""
_FORM = "multipart/form-data"
_FIELDS = 16  # of a form, besides files: nobody needs any
_FIELD_BYTES = 4096


class Limits(Frozen):
    """Of one server. What goes beyond is refused, with a status that says which."""

    body_bytes: PositiveInt = 20_000_000
    """Of one request: 413."""
    pixels: PositiveInt = 50_000_000
    """Of one image, by its header, before it is decoded: 413."""
    files: PositiveInt = 32
    """Of one batch: 413."""
    memory_bytes: PositiveInt = 500_000_000
    """Of all bodies that are being read or wait: 503."""
    header_seconds: PositiveFloat = 10.0
    """Until a request's headers are there: the connection is closed."""
    body_seconds: PositiveFloat = 20.0
    """From then on until its body is: 400."""
    seconds: PositiveFloat = 30.0
    """From a whole request to its answer: 503."""
    queue: PositiveInt = 128
    """Images that wait or are worked on: 429."""
    batch: PositiveInt = 16
    """Images that are computed at once, when so many are there."""
    connections: PositiveInt = 512
    """Open at once: 503."""
    asides: PositiveInt = 1
    """Explanations that are worked on at once: 503."""
    drain_seconds: NonNegativeFloat = 30.0
    """That requests under way have when the server is told to stop."""
    top: Annotated[int, Field(ge=1)] = 3
    """Classes of an answer, unless a request says how many."""

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.files > self.queue:
            raise ValueError(f"a batch of {self.files} files never fits into a queue of {self.queue}; lower files, too")
        return self


async def read_image(request: Request) -> bytes:
    """The image that a request brings, as its body or as the form's `file`. Raises Refusal.

    What it may cost says `request.app.state.limits`.
    """
    if _type(request) == _FORM:
        files = await _read_form(request, ("file",), 1)
        if len(files) != 1:
            raise Refusal(400, "no_file", "the form has no field `file` with a file in it; send the image in one")
        return files[0][1]
    _check_raw(request)
    limits: Limits = request.app.state.limits
    async with _Clock(limits):
        return b"".join([chunk async for chunk in _chunks(request, limits)])


async def read_images(request: Request) -> list[tuple[str, bytes]]:
    """(file name, bytes) of each image that a form brings as `files`. Raises Refusal."""
    if _type(request) != _FORM:
        raise Refusal(415, "not_a_form", "several images come as multipart/form-data, each in a field `files`")
    limits: Limits = request.app.state.limits
    files = await _read_form(request, ("files", "file"), limits.files)
    if not files:
        raise Refusal(400, "no_file", "the form has no field `files` with a file in it; send each image in one")
    return files


async def _read_form(request: Request, names: Sequence[str], most: int) -> list[tuple[str, bytes]]:
    limits: Limits = request.app.state.limits
    parser = _Parser(
        request.headers,
        _chunks(request, limits),
        max_files=most,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        async with _Clock(limits):
            form: FormData = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise Refusal(413, "too_many_files", f"a request of more than {most} files; send fewer at once") from None
        if error.message.startswith("Part exceeded"):
            raise Refusal(
                400,
                "no_file",
                f"a field of the form without a filename is longer than {_FIELD_BYTES:,} bytes; send an image as a "
                "file, with a filename",
            ) from None
        raise Refusal(400, "bad_form", f"the form is not valid multipart/form-data: {error.message}") from None
    try:
        files = [each for name, each in form.multi_items() if name in names and isinstance(each, UploadFile)]
        return [(each.filename or "", each.file.read()) for each in files]
    finally:
        parser.close()


class _Parser(MultiPartParser):
    """Files stay in memory, of which a body may not take more than so much anyway; the disk sees nothing of them."""

    spool_max_size = 0  # tempfile's word for never

    def close(self) -> None:
        """Also the file of a part that has no end, which is not in the form."""
        for file in self._files_to_close_on_error:
            file.close()


class _Clock:
    """The time that a body may take to come. A client that is slower is told so, if it still listens."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.body_seconds
        self._timeout = asyncio.timeout(limits.body_seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *what: Any) -> None:
        try:
            await self._timeout.__aexit__(*what)
        except TimeoutError:
            raise Refusal(
                400, "too_slow", f"the body was not complete within {self._seconds:g} s; send less, or faster"
            ) from None


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body. Raises Refusal as soon as it is, or says that it will be, too long."""
    declared = request.headers.get("content-length", "")
    total = int(declared) if declared.isdecimal() else 0
    if total > limits.body_bytes:
        raise _too_long(limits)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limits.body_bytes:
            raise _too_long(limits)
        if chunk:
            yield chunk


def _too_long(limits: Limits) -> Refusal:
    return Refusal(413, "body_too_large", f"a body of more than {limits.body_bytes:,} bytes; send a smaller image")


def _type(request: Request) -> str:
    """The body's type, without parameters. Raises Refusal for one that is packed."""
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Refusal(415, "packed", f"Content-Encoding {packed} is not undone here; send the image as it is")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_raw(request: Request) -> None:
    kind = _type(request)
    if kind and not kind.startswith(_RAW):
        raise Refusal(
            415,
            "not_an_image",
            f"a body of type {kind[:80]} is no image; send its bytes as image/*, or a form with a field `file`",
        )
