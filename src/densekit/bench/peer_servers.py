"""What people write instead of `densekit serve`: python -m densekit.bench.peer_servers NAME MODEL_FOLDER PORT THREADS.

torchvision's network with the same weights, Pillow, torchvision's transforms; FastAPI alone, or LitServe with batches.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from densekit.bench.peer_network import Network


def fastapi(network: Network, port: int, *, threads: bool) -> None:
    """One image a request; on the event loop, as tutorials have it, or in FastAPI's pool of threads."""
    app = FastAPI()

    def work(content: bytes) -> dict[str, Any]:
        return network.answer([network.read(content)])[0]

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        content = await request.body()
        return await run_in_threadpool(work, content) if threads else work(content)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def main() -> None:
    """Serves until it is killed."""
    name, folder, port, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if name == "litserve":
        from densekit.bench.peer_litserve import serve

        serve(folder, port, threads)
    else:
        fastapi(Network(folder, threads), port, threads=name == "fastapi-threads")


if __name__ == "__main__":
    main()
