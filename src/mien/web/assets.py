"""Files of the web page, its content security policy, and the label tables it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import __version__
from mien.tasks import HELEN9, LAPA11, PARSING
from mien.tasks.attribute_groups import GROUPS
from mien.tasks.attribute_rates import RATES
from mien.visualize.drawing import COLORS
from mien.visualize.overlay import TINTS

if TYPE_CHECKING:
    pass


WEB = Path(__file__).parent


# A browser shall load nothing from elsewhere, run nothing that is not a file of ours, and send pictures
# nowhere but here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:;"
    " connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
)


# Names that two label sets give to one part, where the palette knows the other.
SAME_COLOR = {
    "face": "skin",
    "brow": "l_brow",
    "eye": "l_eye",
    "upper_lip": "u_lip",
    "lower_lip": "l_lip",
    "inner_mouth": "mouth",
}


# Attributes that are rather an opinion of those who labeled them than something to be seen.
OPINIONS = (
    "Attractive",
    "Big_Lips",
    "Big_Nose",
    "Chubby",
    "Narrow_Eyes",
    "Oval_Face",
    "Pointy_Nose",
    "Young",
)


def about() -> dict[str, Any]:
    """Plain JSON values: label sets by name with a color per class, the groups of the attributes, which of
    these are opinions, and how common each one is.
    """
    sets = {
        t.labels: [
            {
                "name": n,
                "color": "#{:02x}{:02x}{:02x}".format(*(TINTS.get(n) or COLORS[SAME_COLOR.get(n, n)])),
                "head": n in TINTS,  # what is not a part of the head is listed and not painted
            }
            for n in t.names
        ]
        for t in (PARSING, LAPA11, HELEN9)
    }
    # its "Object" is what concerns no part
    groups = {"Whole face" if n == "Object" else n: g for n, g in GROUPS["mgmtn8"].items()}
    return {
        "version": __version__,
        "sets": sets,
        "groups": groups,
        "opinions": list(OPINIONS),
        "rates": RATES,
    }


def parts() -> dict[str, Path]:
    """Address below the page's own -> file, of all that both modes need; src/mien/web/local is for the
    browser mode only.
    """
    found = {
        f"page/{p.name}": p for p in sorted(WEB.iterdir()) if p.suffix in (".js", ".css", ".png", ".jpg")
    }
    return {"index.html": WEB / "index.html", **found}
