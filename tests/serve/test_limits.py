"""A request's images are read within limits, and beyond them refused with a status that says which."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from densekit.errors import BadImage
from densekit.serve import http_errors
from densekit.serve.background import aside
from densekit.serve.limits import Limits, read_image, read_images

LIMITS = Limits(body_bytes=5000, files=3, body_seconds=0.3, seconds=0.3, asides=2)


def app_of(limits: Limits = LIMITS, work: Callable[[], Any] = lambda: None) -> FastAPI:
    """Three endpoints that answer with what they were given."""
    app = FastAPI()
    app.state.limits = limits
    http_errors.install(app)

    @app.post("/one")
    async def one(request: Request) -> str:
        return (await read_image(request)).hex()

    @app.post("/many")
    async def many(request: Request) -> list[tuple[str, str]]:
        return [(name, content.hex()) for name, content in await read_images(request)]

    @app.post("/aside")
    async def slowly(request: Request) -> Any:
        return await aside(request, work)

    return app


async def post(app: FastAPI, path: str, **what: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, **what)


def answer(app: FastAPI, path: str, **what: Any) -> httpx.Response:
    return asyncio.run(post(app, path, **what))


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert sorted(error) == ["code", "message"]
    assert error["message"]
    return response.status_code, error["code"]


@pytest.mark.parametrize("kind", [None, "image/jpeg", "IMAGE/PNG; x=y", "application/octet-stream"])
def test_a_raw_body_is_the_image(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert answer(app_of(), "/one", content=b"\0\xff\r\n", headers=headers).json() == "00ff0d0a"


def test_a_form_has_the_image_in_file() -> None:
    content = bytes(range(256)) + b"\r\n--"
    response = answer(app_of(), "/one", files={"file": ("a.png", content)}, data={"note": "x"})
    assert response.json() == content.hex()


def test_a_form_has_several_in_files() -> None:
    files = [("files", ("a.png", b"a")), ("files", ("b.png", b"b"))]
    assert answer(app_of(), "/many", files=files).json() == [["a.png", "61"], ["b.png", "62"]]


@pytest.mark.parametrize(
    ("path", "what", "expected"),
    [
        ("/one", {"content": b"x", "headers": {"content-type": "application/json"}}, (415, "not_an_image")),
        ("/one", {"content": b"x", "headers": {"content-type": "text/html"}}, (415, "not_an_image")),
        ("/one", {"content": b"x", "headers": {"content-encoding": "gzip"}}, (415, "packed")),
        ("/one", {"content": b"x" * 5001}, (413, "body_too_large")),
        ("/one", {"files": {"file": b"x" * 5001}}, (413, "body_too_large")),
        ("/one", {"files": {"other": b"x"}}, (400, "no_file")),
        ("/one", {"files": {"file": (None, b"x")}}, (400, "no_file")),
        ("/one", {"files": {"file": (None, b"x" * 4500)}}, (400, "no_file")),
        ("/one", {"files": [("file", b"x"), ("file", b"x")]}, (413, "too_many_files")),
        ("/one", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, (400, "bad_form")),
        ("/one", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, (400, "bad_form")),
        (
            "/one",
            {"content": b"--b\r\nContent-Disposition: form-data; name=file; filename=f\r\n\r\nhalf", "headers": {
                "content-type": "multipart/form-data; boundary=b"}},
            (400, "no_file"),
        ),
        ("/one", {"files": {"file": b"x"}, "data": {f"f{i}": "x" for i in range(20)}}, (400, "bad_form")),
        ("/many", {"files": [("files", b"x")] * 4}, (413, "too_many_files")),
        ("/many", {"content": b"x"}, (415, "not_a_form")),
        ("/nowhere", {}, (404, "not_found")),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(path: str, what: dict[str, Any], expected: tuple[int, str]) -> None:
    assert code(answer(app_of(), path, **what)) == expected


def test_a_body_without_a_length_is_refused_when_it_is_too_long() -> None:
    seen = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal seen
        while seen < 10_000:
            seen += 100
            yield b"x" * 100

    async def send() -> tuple[int, str]:
        return code(await post(app_of(), "/one", content=endless()))

    assert asyncio.run(send()) == (413, "body_too_large")


@pytest.mark.parametrize("form", [True, False])
def test_a_slow_body_is_given_up(form: bool) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"--b\r\nContent-Disposition: form-data; name=file; filename=f\r\n\r\n"
        await asyncio.sleep(30)
        yield b"never"

    async def send() -> tuple[int, str]:
        kind = "multipart/form-data; boundary=b" if form else "image/png"
        return code(await post(app_of(), "/one", content=slow(), headers={"content-type": kind}))

    started = time.monotonic()
    assert asyncio.run(send()) == (400, "too_slow")
    assert time.monotonic() - started < 5


def test_what_runs_aside_gives_its_result_and_its_errors() -> None:
    assert answer(app_of(work=lambda: 7), "/aside").json() == 7

    def bad() -> None:
        raise BadImage("corrupt", "the image is damaged")

    assert code(answer(app_of(work=bad), "/aside")) == (422, "corrupt")
    assert code(answer(app_of(work=lambda: 1 / 0), "/aside")) == (500, "internal")


def test_few_run_aside_at_once_and_the_loop_goes_on() -> None:
    gate, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def work() -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(5)
        with lock:
            running -= 1
        return "done"

    app = app_of(LIMITS.model_copy(update={"seconds": 10.0}), work)

    async def crowd() -> list[httpx.Response]:
        requests = [asyncio.create_task(post(app, "/aside")) for _ in range(10)]
        while sum(task.done() for task in requests) < 8:
            await asyncio.sleep(0.01)
        gate.set()  # only a loop that is not blocked comes here
        return await asyncio.gather(*requests)

    responses = asyncio.run(crowd())
    busy = [response for response in responses if response.status_code == 503]
    assert [code(response) for response in busy] == [(503, "busy")] * 8
    assert all(int(response.headers["retry-after"]) >= 1 for response in busy)
    assert [r.json() for r in responses if r.status_code == 200] == ["done", "done"]
    assert most == 2


def test_a_place_aside_stays_taken_until_its_thread_is_done() -> None:
    gate = threading.Event()
    app = app_of(LIMITS.model_copy(update={"asides": 1}), lambda: gate.wait(10))

    async def crowd() -> list[tuple[int, str]]:
        late = code(await post(app, "/aside"))
        meanwhile = code(await post(app, "/aside"))
        gate.set()
        while (after := await post(app, "/aside")).status_code != 200:
            await asyncio.sleep(0.01)
        return [late, meanwhile, (after.status_code, "")]

    assert asyncio.run(crowd()) == [(503, "timeout"), (503, "busy"), (200, "")]
