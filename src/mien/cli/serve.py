"""`mien serve`: the HTTP server."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.command import SERVE, is_quiet
from mien.cli.common import app, load_model, names_of
from mien.cli.options import FMR_HELP, MAX_PIXELS, NETWORK, TASK_NAMES, Score, Weights

ACCESS, LIMITS, BATCHING, GALLERY = "Access", "Limits", "Batching", "Gallery"


@app.command(rich_help_panel=SERVE)
def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on; any address but a loopback one needs --api-keys.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, metavar="N", help="Port to listen on; 0 selects a free one."
        ),
    ] = 8000,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAMES",
            help=f"Predictions that clients may request, comma-separated: {TASK_NAMES}.",
            show_default="all of the network",
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            "--api-keys",
            metavar="FILE",
            help="File with one bearer key per client: NAME KEY on each line.",
            show_default="no keys",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Web origin that may call the server (CORS), such as https://photos.example; repeatable.",
            show_default="none",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            min=0.001,
            metavar="N",
            help="Photos per minute and key; beyond that, requests get 429.",
            show_default="no limit",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    burst: Annotated[
        int,
        typer.Option(
            "--burst",
            min=1,
            metavar="N",
            help="With --rate: photos that a client may send at once.",
            rich_help_panel=LIMITS,
        ),
    ] = 32,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            min=1,
            metavar="N",
            help="Maximum number of photos in progress or waiting; beyond that, requests get 503.",
            rich_help_panel=LIMITS,
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.1,
            metavar="SECONDS",
            help="Time limit of one request, and of open requests at shutdown.",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels",
            min=1,
            metavar="N",
            help="Refuse photos with more pixels, before they are decoded.",
            rich_help_panel=LIMITS,
        ),
    ] = MAX_PIXELS,
    max_faces: Annotated[
        int,
        typer.Option(
            "--max-faces", min=1, metavar="N", help="Refuse photos with more faces.", rich_help_panel=LIMITS
        ),
    ] = 100,
    max_pictures: Annotated[
        int,
        typer.Option(
            "--max-pictures",
            min=1,
            metavar="N",
            help="Maximum number of photos per request.",
            rich_help_panel=LIMITS,
        ),
    ] = 16,
    max_picture_mib: Annotated[
        float,
        typer.Option(
            "--max-picture-mib",
            min=0.001,
            metavar="MIB",
            help="Maximum file size of a photo.",
            rich_help_panel=LIMITS,
        ),
    ] = 32.0,
    max_request_mib: Annotated[
        float,
        typer.Option(
            "--max-request-mib",
            min=0.001,
            metavar="MIB",
            help="Maximum size of a request.",
            rich_help_panel=LIMITS,
        ),
    ] = 64.0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            help="Threads that decode photos and detect faces.",
            show_default="one per core, up to 4",
            rich_help_panel=BATCHING,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            min=1,
            metavar="N",
            help="Batch size: faces per forward pass, of one or more requests.",
            rich_help_panel=BATCHING,
        ),
    ] = 16,
    batch_wait: Annotated[
        float,
        typer.Option(
            "--batch-wait",
            min=0,
            metavar="MS",
            help="Maximum time that a face waits for others, in milliseconds.",
            rich_help_panel=BATCHING,
        ),
    ] = 4.0,
    gallery: Annotated[
        str | None,
        typer.Option(
            "--gallery",
            metavar="GALLERY",
            help="Gallery to serve: a folder, or the address of an object store (s3://...).",
            show_default="none",
            rich_help_panel=GALLERY,
        ),
    ] = None,
    gallery_key: Annotated[
        Path | None,
        typer.Option(
            "--gallery-key",
            metavar="FILE",
            help="Key file of an encrypted gallery; see mien gallery key.",
            show_default="none",
            rich_help_panel=GALLERY,
        ),
    ] = None,
    fmr: Annotated[
        float, typer.Option("--fmr", metavar="RATE", help=FMR_HELP, rich_help_panel=GALLERY)
    ] = 1e-3,
    score: Score = None,
    weights: Weights = None,
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, metavar="N", help="Inference threads.", rich_help_panel=NETWORK),
    ] = 1,
) -> None:
    """Serve predictions over HTTP, with a web page.

    Routes: /v1/analyze, /v1/verify, /v1/models, /v1/gallery/..., /healthz, /readyz, /metrics, /openapi.json
    and /docs. Needs the extra: pip install 'mien[serve]'.
    """
    from mien.server import app as server  # says what to install where the extra is missing
    from mien.server.limits import MIB, Limits, check_origins, read_keys
    from mien.server.run import check_address, run

    who = None
    if gallery is not None:
        from mien.recognition.gallery import Gallery
        from mien.recognition.store import libraries

        libraries()  # a missing extra is said before a network is loaded
        who = partial(Gallery, gallery, key=gallery_key, fmr=fmr)
    let_in = read_keys(api_keys) if api_keys is not None else None
    check_address(host, let_in)
    check_origins(allow_origin or (), let_in)
    limits = Limits(
        picture_bytes=int(max_picture_mib * MIB),
        request_bytes=int(max_request_mib * MIB),
        pixels=max_pixels,
        faces=max_faces,
        pictures=max_pictures,
        queue=queue,
        seconds=timeout,
        rate=rate,
        burst=burst,
    )
    from mien.inference.reader import load
    from mien.settings import inference_threads

    reader = load(
        load_model(weights, threads), threads=threads, batch=batch, max_pixels=max_pixels, score=score
    )
    made = server.app(
        reader,
        keys=let_in,
        limits=limits,
        offered=names_of(tasks),
        workers=workers or min(4, inference_threads()),
        batch_faces=batch,
        batch_wait_ms=batch_wait,
        gallery=who,
        origins=allow_origin or (),
    )
    log = logging.getLogger("mien")
    log.handlers.clear()  # of the command line; a server's lines have a time and a level
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    if log.level != logging.DEBUG:  # --verbose
        log.setLevel(logging.WARNING if is_quiet() else logging.INFO)
    run(made, host, port, keys=let_in, grace=timeout)
