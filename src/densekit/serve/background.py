"""Slow work that is not the queue's, such as explanations: in threads, few at once, each with a time limit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request

from densekit.serve.http_errors import Refusal
from densekit.serve.limits import Limits

T = TypeVar("T")


class _Room:
    """The threads of one app, and how many are taken."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.threads = ThreadPoolExecutor(most, "densekit-aside")

    def leave(self, _: object) -> None:
        self.taken -= 1


async def aside(request: Request, function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, off the event loop. Raises what it raises.

    Raises Refusal, 503, where `limits.asides` of them are being worked on, or after `limits.seconds`. A thread cannot
    be stopped: it keeps its place until it is done.
    """
    state = request.app.state
    limits: Limits = state.limits
    room: _Room | None = getattr(state, "aside_room", None)
    if room is None:
        room = state.aside_room = _Room(limits.asides)
    if room.taken >= room.most:
        raise Refusal(503, "busy", "others are being answered; try again in a moment", retry_after=1)
    room.taken += 1
    work = asyncio.get_running_loop().run_in_executor(room.threads, function, *arguments)
    work.add_done_callback(room.leave)
    try:
        return await asyncio.wait_for(asyncio.shield(work), limits.seconds)
    except TimeoutError:
        if work.done():  # its own
            raise
        work.add_done_callback(_forget)
        raise Refusal(
            503, "timeout", f"not done within {limits.seconds:g} s; try a smaller image", retry_after=limits.seconds
        ) from None


def _forget(work: "asyncio.Future[Any]") -> None:
    """Nobody will ask for what it raised."""
    if not work.cancelled():
        work.exception()
