"""The processes of a run: one, or as many as torchrun started, on one host or several."""

import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from densekit.distributed.heartbeat import Heartbeat
from densekit.errors import DensekitError, PeerLost

T = TypeVar("T")

_PATIENCE = 300.0  # seconds for all processes to start
# Of one process's work that others wait for, as hashing a large data set; the heartbeat notices those that are lost.
_LONGEST = timedelta(hours=6)
_calls = itertools.count()  # of `init_distributed`


@dataclass(frozen=True)
class DistributedContext:
    """This process among those of its run. Its methods are collectives: all processes have to call them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this host: which of its devices is ours."""
    launch: str = ""
    """What all restarts of one torchrun have in common, and no other one has; see `_launch`."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sums(self, *numbers: float) -> list[float]:
        """Each number, summed over all processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return cast(list[float], total.tolist())

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def run_on_main(self, work: Callable[[], T]) -> T:
        """What `work` gives rank 0; if it raises a DensekitError there, all processes do."""
        if self.size == 1:
            return work()
        box: list[Any] = [None, None, ""]
        if self.is_main:
            try:
                box[0] = work()
            except DensekitError as error:
                box[1:] = type(error), str(error)
        dist.broadcast_object_list(box)
        value, kind, message = box
        if kind is not None:
            raise kind.__new__(kind, message)  # past constructors that ask for more than the message
        return cast(T, value)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with rank 0's."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    @contextmanager
    def first_of_host_first(self) -> Iterator[None]:
        """Lets one process of each host go ahead, to download for the others."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = DistributedContext()


@contextmanager
def init_distributed() -> Iterator[DistributedContext]:
    """The processes that the environment (RANK, WORLD_SIZE, MASTER_ADDR, ...) tells of; usually this one alone.

    Raises PeerLost when another one ends in the middle of the work.
    """
    if dist.is_available() and dist.is_initialized():  # by an outer call, or by a program that uses this package
        yield _world()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        if dist.is_available() and dist.is_torchelastic_launched():  # which may have started it again, or more before
            yield replace(ALONE, launch=_launch_of_one())
        else:
            yield ALONE
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # not among its exports
    start = _agreed_start(store, rank, size)
    # After a restart torchrun's store may still hold the addresses of the processes before, which nobody listens on.
    fresh = dist.PrefixStore(f"densekit/{start}", store)  # type: ignore[attr-defined]  # nor is this
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", store=fresh, rank=rank, world_size=size, timeout=_LONGEST
    )
    world = replace(_world(), launch=_launch(store))
    try:
        with Heartbeat(world.rank, world.gather(socket.gethostname()), start):
            yield world
    except DensekitError:
        raise
    except RuntimeError as error:
        # gloo's own failures are plain RuntimeErrors, which name it.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLost(
                "another process of this run has ended, and its own lines say why; the last checkpoint is whole, go on "
                "from it with the same command and resume RUN"
            ) from error
        raise
    # Only now: after a failure it would wait for processes that are gone.
    dist.destroy_process_group()


def _launch_of_one() -> str:
    """Of a single process none where its torchrun does not answer, which it can do without."""
    try:
        store = next(dist.rendezvous("env://", timeout=timedelta(seconds=30)))[0]  # type: ignore[attr-defined]  # as above
        return _launch(store)
    except (RuntimeError, ValueError):
        return ""


def _launch(store: Any) -> str:
    """ID/CALL/: of all processes of this launch, and of those that are started again; the first one draws ID.

    CALL counts those of `init_distributed`: a program that is started again makes the same ones, as a rule.
    """
    return f"{store.compare_set('densekit/launch', '', uuid.uuid4().hex).decode()}/{next(_calls)}/"


def _agreed_start(store: Any, rank: int, size: int) -> int:
    """The number of this start of all processes; each host's torchrun counts restarts for itself, and they may differ.

    A process asks under a name that nobody used before, so that no answer to one that is gone can be taken for its own.
    """
    if rank:
        name = uuid.uuid4().hex
        store.set(f"densekit/ask/{rank}", name)
        number = int(store.get(f"densekit/answer/{name}"))  # waits for it
        store.set(f"densekit/heard/{number}/{rank}", "")
        return number
    number = int(store.add("densekit/starts", 1))
    until = time.monotonic() + _PATIENCE
    while deaf := [r for r in range(1, size) if not store.check([f"densekit/heard/{number}/{r}"])]:
        if time.monotonic() > until:
            raise PeerLost(f"rank {', '.join(map(str, deaf))} did not start within {_PATIENCE:.0f} s; start all hosts")
        for r in deaf:
            if store.check([f"densekit/ask/{r}"]):
                store.set(f"densekit/answer/{store.get(f'densekit/ask/{r}').decode()}", str(number))
        time.sleep(0.05)
    return number


def restarts() -> int:
    """How often torchrun has started these processes anew after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _world() -> DistributedContext:
    return DistributedContext(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
