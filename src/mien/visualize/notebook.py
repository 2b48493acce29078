"""How a reading looks in a notebook: the drawn photo, and a table of its faces."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

from PIL import Image

from mien.types import Face, Pixels

SIDE = 800  # pixels of the longer side of the picture in a notebook
ROWS = 20  # faces in the table


def drawn_png(pixels: Pixels, side: int = SIDE) -> bytes:
    """(H, W, 3) uint8 RGB -> a PNG whose longer side is at most `side` pixels."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def reading_html(reading: Any, png: bytes | None) -> str:
    """The drawn photo and one table row per face; an error as its message."""
    name = html.escape(reading.path or "photo")
    if reading.error is not None:
        return f"<p><b>{name}</b>: not read ({html.escape(str(reading.error))})</p>"
    picture = ""
    if png is not None:
        text = base64.b64encode(png).decode("ascii")
        picture = f'<img alt="{name}" src="data:image/png;base64,{text}">'
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (str(number), *_cells(face))) + "</tr>"
        for number, face in enumerate(reading[:ROWS], 1)
    ]
    more = f"<p>and {len(reading) - ROWS} more</p>" if len(reading) > ROWS else ""
    head = "<tr><th>face</th><th>size, pixels</th><th>score</th><th>predictions</th></tr>"
    table = f"<table>{head}{''.join(rows)}</table>{more}" if rows else "<p>no faces</p>"
    return f"<p><b>{name}</b></p>{picture}{table}"


def _cells(face: Face) -> tuple[str, str, str]:
    x1, y1, x2, y2 = (float(v) for v in face.box)
    return f"{x2 - x1:.0f} x {y2 - y1:.0f}", f"{face.score:.2f}", face.brief()
