"""The contact sheet of best shots: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mien.errors import UsageError
from mien.visualize.contact_sheet import jpeg_of, policy_of, short_names

if TYPE_CHECKING:
    from mien.selection.best_shots import Burst, Selection

_STYLE = """body{font:15px/1.4 system-ui,sans-serif;margin:24px;color:#14161c;background:#fff}
section{border-top:1px solid #d9dde3;padding:14px 0}h2{font-size:16px;margin:0 0 8px}
ul{display:flex;flex-wrap:wrap;gap:12px;list-style:none;margin:0;padding:0}
li{width:210px}img{width:210px;height:160px;object-fit:contain;background:#f2f4f7;display:block}
li.best img{outline:4px solid #168239}small{display:block;overflow-wrap:anywhere;color:#4a5160}
b{color:#168239}@media(prefers-color-scheme:dark){body{background:#14161c;color:#eef}small{color:#aab2c0}
img{background:#22262e}}"""


def write(selection: Selection, path: Path) -> None:
    """Write the sheet under another name first, so that a half one never stands there.

    Raises:
        UsageError: not FILE.html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a sheet is FILE.html, not {str(path)!r}")
    _, names = short_names([s.path for b in selection.bursts for s in b.shots])
    shown = iter(names)
    body = "".join(_section(burst, number, shown) for number, burst in enumerate(selection.bursts, 1))
    photos = sum(len(b.shots) for b in selection.bursts)
    missing = f" Not judged, since the network has no such task: {', '.join(selection.missing)}."
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        f' style-src {policy_of(_STYLE)}"><title>Best shots</title><style>{_STYLE}</style>'
        f"<h1>Best shots</h1><p>{photos} photos, {len(selection.bursts)} bursts."
        f"{html.escape(missing) if selection.missing else ''}</p>{body}</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(part, path)


def _section(burst: Burst, number: int, names: Iterator[str]) -> str:
    cards = list[str]()
    for i, shot in enumerate(burst.shots):
        name = html.escape(next(names))
        people = [str(p) for p, place in burst.persons.items() if place == i]
        notes = [f"score {shot.score:.2f}"]
        if i == burst.best:
            notes.insert(0, f"<b>best: {html.escape(', '.join(shot.reasons))}</b>")
        if people:
            notes.append(f"best of person {', '.join(people)}")
        mark = ' class="best"' if i == burst.best else ""
        picture = f'<img alt="{name}" src="data:image/jpeg;base64,{jpeg_of(shot._thumb)}">'
        cards.append(f"<li{mark}>{picture}<small>{name}</small><small>{'; '.join(notes)}</small></li>")
    count = f"{len(burst.shots)} photos" if len(burst.shots) > 1 else "1 photo"
    return f"<section><h2>Burst {number}: {count}</h2><ul>{''.join(cards)}</ul></section>"
