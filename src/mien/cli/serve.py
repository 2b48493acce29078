"""`mien serve`: the HTTP server."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.common import app, names_of, network


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but a loopback one needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File with the bearer keys that are let in: NAME KEY a line.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks that may be asked for, comma-separated; all of the network's if not given."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures decoded and searched for faces at once; 4, or the cores given if they are fewer.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one forward.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Most faces of several pictures in one forward.")] = 16,
    wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a face waits for others that are on their way.")
    ] = 4.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures inside at once, waiting or being read; more get 503.")
    ] = 64,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Pictures a minute and key; more get 429.")
    ] = None,
    burst: Annotated[int, typer.Option(min=1, help="With --rate: pictures that may come at once.")] = 32,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds of one request, and of those under way at the end.")
    ] = 30.0,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger pictures are refused before they are decoded.")
    ] = 64_000_000,
    max_faces: Annotated[int, typer.Option(min=1, help="Pictures with more faces are refused.")] = 100,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures in one request.")] = 16,
    max_picture_mib: Annotated[float, typer.Option(min=0.001, help="Size of a picture as sent, MiB.")] = 32.0,
    max_request_mib: Annotated[float, typer.Option(min=0.001, help="Size of a request, MiB.")] = 64.0,
    score: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Least score of a face, where a request names none."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of a page elsewhere whose scripts may ask (CORS): https://photos.example."),
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="A gallery to answer from: a folder, or an address of an object store.")
    ] = None,
    gallery_key: Annotated[Path | None, typer.Option(help="Key file of a sealed gallery.")] = None,
    fmr: Annotated[
        float, typer.Option(help="With --gallery: how often two strangers may match, per comparison.")
    ] = 1e-3,
    weights: Annotated[
        str | None,
        typer.Option(help="An .onnx, a .safetensors or a run's folder, instead of the embedded network."),
    ] = None,
) -> None:
    """Answer over HTTP: /v1/analyze, /v1/verify, /v1/models, /v1/gallery/..., /healthz, /readyz, /metrics,
    /openapi.json, /docs.
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
    let_in = read_keys(keys) if keys is not None else None
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

    reader = load(network(weights, threads), threads=threads, batch=batch, max_pixels=max_pixels, score=score)
    made = server.app(
        reader,
        keys=let_in,
        limits=limits,
        offered=names_of(tasks),
        workers=workers or min(4, inference_threads()),
        batch_faces=batch,
        batch_wait_ms=wait,
        gallery=who,
        origins=allow_origin or (),
    )
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("mien").setLevel(logging.INFO)
    run(made, host, port, keys=let_in, grace=timeout)
