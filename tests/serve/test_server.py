"""densekit serve, as a process of its own on a loopback port."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from densekit.cli.main import main
from tests.serve.servers import MODEL, PATIENCE, QUICK, Served, blank, parsed, picture, served

TOKEN = "open-sesame-1f9d"
LIMITS: dict[str, Any] = {"queue": 8, "files": 4, "batch": 2, "seconds": 60, "header_seconds": 1.5, "body_seconds": 1.5}
PNG = {"content-type": "image/png"}
proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """With a token, and limits that are soon reached."""
    settings = [word for key, value in LIMITS.items() for word in ("--set", f"{key}={value}")]
    with served(MODEL, *QUICK, *settings, DENSEKIT_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture
def bearer(strict: Served) -> Iterator[httpx.Client]:
    with strict.client as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


def post(client: httpx.Client, content: bytes, **query: Any) -> httpx.Response:
    return client.post("/v1/predict", content=content, params=query, headers=PNG)


def error(response: httpx.Response) -> tuple[int, str]:
    found = response.json()["error"]
    assert sorted(found) == ["code", "message"]
    return response.status_code, found["code"]


def said_by_predict(
    path: Path, top: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """On one thread, as the server computes here."""
    monkeypatch.setattr(sys, "argv", ["densekit", "predict", MODEL, str(path), "--top", str(top), "--json"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        torch.set_num_threads(threads)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["top"]
    return found


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_an_image_is_answered_as_predict_answers_it(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], top: int
) -> None:
    content = picture(top, (60, 50), "PNG", "RGB")
    (tmp_path / "a.png").write_bytes(content)
    expected = said_by_predict(tmp_path / "a.png", top, monkeypatch, capsys)
    with server.client as client:
        raw = post(client, content, top=top)
        form = client.post("/v1/predict", files={"file": ("a.png", content)}, params={"top": top})
    for response in (raw, form):
        found = response.json()
        assert response.status_code == 200
        assert found["top"] == expected
        assert found["model"] == "densenet_bc_40_12"
        assert found["milliseconds"] > 0
        assert set(found) - {"notices"} == {"top", "model", "milliseconds"}


def test_of_a_batch_each_has_its_result_or_its_own_error(server: Served) -> None:
    contents = [picture(0), b"GIF89a but no more", picture(1, (40, 40), "JPEG"), b"text"]
    with server.client as client:
        files = [("files", (f"{i}.png", content)) for i, content in enumerate(contents)]
        found = client.post("/v1/predict/batch", files=files, params={"top": 2}).json()
        alone = [post(client, content, top=2).json() for content in contents]
    assert [row["file"] for row in found["results"]] == ["0.png", "1.png", "2.png", "3.png"]
    for row, own in zip(found["results"], alone, strict=True):
        if "error" in own:
            assert row["error"] == own["error"]
        else:
            assert_same(row["top"], own["top"])


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["class"] for row in found] == [row["class"] for row in expected]
    mine, theirs = ([row["probability"] for row in rows] for rows in (found, expected))
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_many_at_once_share_batches_and_have_the_answers_they_have_alone(server: Served) -> None:
    contents = [picture(seed) for seed in range(48)]
    with server.client as client:
        alone = [post(client, content, top=10).json()["top"] for content in contents]
        before = sample(client, "densekit_batch_images_count"), sample(client, "densekit_batch_images_sum")
        with ThreadPoolExecutor(24) as pool:
            crowd = list(pool.map(lambda content: post(client, content, top=10).json()["top"], contents))
        after = sample(client, "densekit_batch_images_count"), sample(client, "densekit_batch_images_sum")
    for found, expected in zip(crowd, alone, strict=True):
        assert_same(found, expected)
    batches, images = (late - early for early, late in zip(before, after, strict=True))
    assert images == 48
    assert batches < 40


def sample(client: httpx.Client, name: str, headers: dict[str, str] | None = None) -> float:
    lines = client.get("/metrics", headers=headers).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


@pytest.mark.parametrize(
    ("method", "path", "what", "expected"),
    [
        ("POST", "/v1/predict", {"content": b"", "headers": PNG}, (400, "empty_file")),
        ("POST", "/v1/predict", {"content": b"text", "headers": PNG}, (415, "not_an_image")),
        ("POST", "/v1/predict", {"json": {"url": "http://127.0.0.1/a.png"}}, (415, "not_an_image")),
        ("POST", "/v1/predict", {"content": picture(0)[:-30], "headers": PNG}, (422, "truncated")),
        ("POST", "/v1/predict?top=0", {"content": picture(0), "headers": PNG}, (422, "invalid_parameter")),
        ("POST", "/v1/predict?top=many", {"content": picture(0), "headers": PNG}, (422, "invalid_parameter")),
        ("POST", "/v1/predict", {"content": bytes(20_000_001), "headers": PNG}, (413, "body_too_large")),
        ("POST", "/v1/predict", {"content": blank(20_000, 20_000), "headers": PNG}, (413, "too_many_pixels")),
        ("POST", "/v1/predict/batch", {"content": picture(0), "headers": PNG}, (415, "not_a_form")),
        ("GET", "/v1/predict", {}, (405, "method_not_allowed")),
        ("GET", "/../etc/passwd", {}, (404, "not_found")),
    ],
)
def test_what_is_wrong_is_said_in_one_form(
    server: Served, method: str, path: str, what: dict[str, Any], expected: tuple[int, str]
) -> None:
    with server.client as client:
        assert error(client.request(method, path, **what)) == expected


def test_health_readiness_and_the_interface_are_told(server: Served) -> None:
    with server.client as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz").json()
        assert ready["engine"]["name"] == "torch"
        assert ready["engine"]["threads"] == 1
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/predict", "/v1/predict/batch", "/healthz", "/readyz", "/metrics"} <= set(paths)
        assert set(paths["/v1/predict"]["post"]["responses"]) >= {"400", "401", "413", "415", "422", "429", "503"}
        page = client.get("/docs")
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text  # it needs no network
        assert client.get("/docs/static/swagger-ui-bundle.js").status_code == 200


def test_a_request_is_one_line_of_json(server: Served) -> None:
    with server.client as client:
        post(client, picture(5))
        client.get("/some%E2%80%A8thing%0D%0A?secret=1")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [line for line in list(server.lines) if line["event"] == "request"]
        if lines and lines[-1]["path"].startswith("/some"):
            break
        time.sleep(0.01)
    assert lines[-1]["status"] == 404
    assert "secret" not in json.dumps(lines[-1])
    good = next(line for line in reversed(lines) if line["status"] == 200 and line["path"] == "/v1/predict")
    assert good["bytes"] == len(picture(5))
    assert good["milliseconds"] > 0
    assert not server.other


def test_a_killed_worker_comes_back_and_only_what_was_with_it_is_lost(server: Served) -> None:
    pid = server.worker
    os.kill(pid, signal.SIGSTOP)  # so that the request is in flight for certain
    with server.client as client, ThreadPoolExecutor(1) as pool:
        flying = pool.submit(post, client, picture(0))
        while not sample(client, "densekit_queue_images"):
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        lost = flying.result(PATIENCE)
        assert error(lost) == (503, "worker_lost")
        assert int(lost.headers["retry-after"]) >= 1
        # Asked while there is none: waits for the next.
        following = post(client, picture(0))
    # Under load its start may take longer than a request may wait.
    assert following.status_code == 200 or error(following) == (503, "timeout")
    assert server.said("ready", 2)["pid"] != pid
    with server.client as client:
        assert post(client, picture(0)).status_code == 200
        assert client.get("/readyz").status_code == 200
    assert server.count("engine") == 1  # it did not measure again


@pytest.mark.slow
@proc
def test_a_token_is_wanted_and_nowhere_seen(strict: Served, bearer: httpx.Client) -> None:
    with strict.client as client:
        for given in (None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer"):
            headers = PNG if given is None else PNG | {"authorization": given}
            response = client.post("/v1/predict", content=picture(0), headers=headers)
            assert error(response) == (401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert post(bearer, picture(0)).status_code == 200
    for pid in (strict.process.pid, strict.worker):
        assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert TOKEN.encode() not in Path(f"/proc/{strict.worker}/environ").read_bytes()
    assert TOKEN not in json.dumps(strict.lines)


def test_a_full_queue_says_when_to_come_again(strict: Served, bearer: httpx.Client) -> None:
    pid = strict.worker
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(LIMITS["queue"]) as pool:
            waiting = [pool.submit(post, bearer, picture(i)) for i in range(LIMITS["queue"])]
            while sample(bearer, "densekit_queue_images") < LIMITS["queue"]:
                time.sleep(0.01)
            refused = post(bearer, picture(0))
            assert error(refused) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            os.kill(pid, signal.SIGCONT)
            assert [future.result(PATIENCE).status_code for future in waiting] == [200] * LIMITS["queue"]
    finally:
        os.kill(pid, signal.SIGCONT)


def talk(port: int, *parts: bytes | float) -> bytes:
    """Sends bytes, and waits seconds, in turn; returns all that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for part in parts:
            if isinstance(part, float):
                time.sleep(part)
                continue
            try:
                connection.sendall(part)
            except OSError:
                break
        came = b""
        try:
            while chunk := connection.recv(65536):
                came += chunk
        except ConnectionError:
            pass
        return came


HEAD = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n".encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((), None),
        ((b"POST /v1/pre",), None),
        ((HEAD, b"X: "), None),
        ((HEAD, b"Content-Length: 500\r\n\r\n", b"half"), 400),
        ((HEAD, b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nhalf\r\n"), 400),
        ((HEAD, b"Content-Length: 500\r\n\r\n", *(b"x", 0.3) * 10), 400),
        ((b"GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",), 404),
        ((b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 0.3, b"\r\n"), 404),
        ((b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", 0.3, b"abc"), 404),
        ((b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 70_000,), 400),
        ((b"\x16\x03\x01\x02\0 TLS, by mistake\r\n\r\n",), 400),
    ],
)
def test_slow_and_broken_clients_are_ended(
    strict: Served, parts: tuple[bytes | float, ...], status: int | None
) -> None:
    started = time.monotonic()
    came = talk(strict.port, *parts)
    assert time.monotonic() - started < 30
    if status is None:
        assert came == b""
    else:
        found, _, body = parsed(came)
        assert found == status
        assert sorted(json.loads(body)["error"]) == ["code", "message"]


@pytest.mark.slow
def test_who_does_not_read_the_answer_is_not_waited_for(strict: Served) -> None:
    path = "/docs/static/swagger-ui-bundle.js"
    with strict.client as client:
        whole = 8 * len(client.get(path).content)  # more than the kernel takes from the server
    came = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", strict.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 8)
        connection.settimeout(30)
        time.sleep(4 * LIMITS["body_seconds"])
        with suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 20):
                came += len(chunk)
    assert came < whole


def test_requests_one_behind_the_other_on_one_connection_are_answered_in_order(strict: Served) -> None:
    bodies = [picture(i) for i in range(3)]
    requests = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    came = talk(strict.port, requests, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert came.count(b"HTTP/1.1 200") == 4
    assert came.rstrip().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_that_offers_an_upgrade_is_answered_with_its_body(strict: Served, framing: str, whole: bool) -> None:
    """Java's HTTP client offers h2c with every request."""
    body = picture(0)
    offer = b"Connection: Upgrade, HTTP2-Settings, keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
    if framing == "length":
        rest = b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        rest = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    request = HEAD + offer + rest
    parts = (request,) if whole else (request[:40], 0.1, request[40:-20], 0.1, request[-20:])
    came = talk(strict.port, *parts, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert came.count(b"HTTP/1.1 200") == 2
    assert b'"top"' in came


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_of_a_request_without_body_is_passed_over(strict: Served, protocol: bytes) -> None:
    offer = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    came = talk(
        strict.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + offer, b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n"
    )
    assert came.count(b'{"status":"ok"}') == 2


def test_a_tunnel_is_refused(strict: Served) -> None:
    came = talk(strict.port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
    assert not came or parsed(came)[0] >= 400


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/model"])
def test_head_is_get_without_its_body(server: Served, path: str) -> None:
    """Load balancers and monitors ask with HEAD."""
    with server.client as client:
        got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == got.headers["content-type"]


def test_a_method_that_is_not_allowed_is_told_which_are(server: Served) -> None:
    with server.client as client:
        response = client.put("/v1/predict", content=picture(0))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_slash_at_the_end_is_answered_and_not_redirected(server: Served) -> None:
    """A redirect has the scheme that this process sees: behind a proxy that ends TLS, http."""
    with server.client as client:
        assert client.post("/v1/predict/", content=picture(0), headers=PNG).status_code == 200


def test_a_slash_at_the_end_does_not_pass_by_the_token(strict: Served) -> None:
    with strict.client as client:
        assert client.post("/v1/predict/", content=picture(0), headers=PNG).status_code == 401
        assert client.get("/metrics/").status_code == 401


@pytest.mark.slow
def test_what_is_under_way_is_answered_after_sigterm_and_the_end_is_clean() -> None:
    with served(MODEL, *QUICK) as server, server.client as client, ThreadPoolExecutor(1) as pool:
        pid = server.worker
        os.kill(pid, signal.SIGSTOP)
        flying = pool.submit(post, client, picture(0))
        with server.client as other:
            while not sample(other, "densekit_queue_images"):
                time.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGINT):  # to all of its group, as a terminal or a supervisor does
            os.kill(pid, number)
        server.process.send_signal(signal.SIGTERM)
        server.said("draining")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            except OSError:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("new connections are still taken")
        os.kill(pid, signal.SIGCONT)
        assert flying.result(PATIENCE).status_code == 200
        assert server.process.wait(PATIENCE) == 0
        gone(pid)


def gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"{pid} is still there")


@pytest.mark.slow
def test_a_hanging_worker_is_replaced_and_what_cannot_be_answered_is_cut_off_with_143() -> None:
    settings = ("--set", "seconds=2", "--set", "drain_seconds=0.5", "--set", "connections=3")
    with served(MODEL, *QUICK, *settings) as server:
        with server.client as client:
            pid = server.worker
            os.kill(pid, signal.SIGSTOP)
            assert error(post(client, picture(0))) == (503, "timeout")
            server.said("worker_hangs")
            gone(pid)
            replaced = server.said("ready", 2)["pid"]
            assert replaced != pid
            assert post(client, picture(0)).status_code == 200
        _too_many_connections(server)
        os.kill(replaced, signal.SIGSTOP)
        thread = threading.Thread(target=lambda: talk(server.port, HEAD + b"Content-Length: 1\r\n\r\n", b"x"))
        thread.start()
        with server.client as client:
            while not sample(client, "densekit_queue_images"):
                time.sleep(0.01)
        assert server.stop() == 143
        thread.join(PATIENCE)
        assert "1 request unanswered" in "".join(server.other)
        gone(replaced)


def _too_many_connections(server: Served) -> None:
    opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    try:
        deadline = time.monotonic() + 30
        while True:  # until the loop has seen them all, and those before have been closed
            status, headers, body = parsed(
                talk(server.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            )
            if status == 503 or time.monotonic() > deadline:
                break
        assert status == 503
        assert headers["retry-after"] == "2"
        assert json.loads(body)["error"]["code"] == "too_many_connections"
    finally:
        for connection in opened:
            connection.close()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("no-such-model",), 2, "unknown model"),
        ((MODEL, "--set", "pixels=none"), 2, "pixels"),
        ((MODEL, "--set", "speed=1"), 2, "speed"),
        ((MODEL, "--set", "queue=8"), 2, "never fits into a queue of 8"),
        ((MODEL, "--token-file", "missing"), 3, "--token-file missing cannot be read"),
        ((MODEL, "--host", "300.0.0.1"), 2, "--host 300.0.0.1"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_a_status(
    words: tuple[str, ...],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["densekit", "serve", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("densekit: ")
    assert message in line


def test_a_port_in_use_is_one_line_with_a_free_port(
    server: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is loaded: the model is not looked at."""
    monkeypatch.setattr(sys, "argv", ["densekit", "serve", "no-such-model", "--port", str(server.port)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        rf"densekit: port {server.port} of 127.0.0.1 is in use; (\d+) is free: pass --port (\d+)", line
    )
    assert found, line
    assert found[1] == found[2]
    with socket.create_server(("127.0.0.1", int(found[1]))):
        pass


def test_it_says_where_the_page_is_when_images_are_answered(server: Served) -> None:
    said = server.said("serving")
    assert said["model"] == MODEL
    assert said["url"] == f"{server.url}/"
    events = [line["event"] for line in server.lines]
    assert events[0] == "starting"
    assert events.index("listening") < events.index("ready") < events.index("serving")
