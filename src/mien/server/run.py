"""Run the app with uvicorn: until it is stopped, or in a thread."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mien.errors import MienError, UsageError
from mien.server.errors import NEEDED
from mien.server.limits import Keys, is_loopback

try:
    import uvicorn
except ModuleNotFoundError as e:
    raise UsageError(f"{NEEDED} ({e.name} is not installed)") from e


class Stopped(MienError):
    """The server did not start."""

    code = "stopped"


def check_address(host: str, keys: Keys | None) -> None:
    """Raises: UsageError if other machines could reach the server without a key."""
    if keys is None and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, so keys are needed: --api-keys FILE, or --host"
            " 127.0.0.1"
        )


def config(app: Any, *, grace: float, **where: Any) -> uvicorn.Config:
    """uvicorn's settings: no access log, no server name in replies, no trust in forwarded addresses."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(-(-grace // 1)),
        lifespan="on",
        ws="none",
        **where,
    )


def run(app: Any, host: str, port: int, *, keys: Keys | None, grace: float) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress then get at most `grace` seconds.

    Raises:
        UsageError: see `check_address`, or the port is taken.
    """
    check_address(host, keys)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(2048)  # connections that arrive while the app starts have to wait
    except OSError as e:
        listening.close()
        raise UsageError(
            f"cannot listen on {host} port {port} ({e.strerror}); choose another with --host and --port"
        ) from e
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    logging.getLogger("mien.server").info(
        "listening on http://%s:%d/ (the API is described at /docs)", shown, listening.getsockname()[1]
    )
    uvicorn.Server(config(app, grace=grace)).run(sockets=[listening])


@contextmanager
def running(app: Any, *, grace: float = 30.0) -> Iterator[str]:
    """Run the app on a free loopback port in a thread; yields its address, "http://127.0.0.1:PORT".

    Raises:
        Stopped: it did not start within 10 s.
    """
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config(app, grace=grace))
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="mien-serve", daemon=True
    )
    thread.start()
    until = time.monotonic() + 10
    try:
        while not server.started:
            if time.monotonic() > until or not thread.is_alive():
                raise Stopped("the server did not start within 10 s; its log says why")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
