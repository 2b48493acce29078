"""Arguments and options that several commands share: one name and one meaning everywhere.

Help texts say what a value does; typer adds the default.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

PICTURES = "Picture output"
DETECTION = "Detection"
NETWORK = "Network"
SCALE = "Large collections"
MATCHING = "Matching"
VIDEOS = "Videos"

MAX_PIXELS = 64_000_000  # as `mien.io.image.MAX_PIXELS`, without its imports
TASK_NAMES = (
    "points5, landmarks, parsing, age, gender, expression, attributes, pose, identity"  # of mien.onnx
)


class PictureFormat(StrEnum):
    """File formats of saved crops."""

    png = "png"
    jpg = "jpg"


class Style(StrEnum):
    """How faces are drawn."""

    corners = "corners"
    box = "box"
    points = "points"
    print = "print"


class OverlayKind(StrEnum):
    """What is drawn on each face."""

    landmarks = "landmarks"
    parsing = "parsing"
    none = "none"


class Engine(StrEnum):
    """What runs a job over a large collection."""

    local = "local"
    ray = "ray"


class Pick(StrEnum):
    """What to do with a photo of several faces where one is expected."""

    refuse = "refuse"
    largest = "largest"


class Use(StrEnum):
    """Uses that weights may permit."""

    research = "research"
    commercial = "commercial"


Photos = Annotated[
    list[str],
    typer.Argument(metavar="PHOTOS...", help="Photos, folders (searched recursively) or glob patterns."),
]
PhotosOrStdin = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS...",
        help="Photos, folders (searched recursively) or glob patterns; - reads one picture from stdin.",
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="NAMES",
        help=f"Predictions, comma-separated: {TASK_NAMES}. Other networks can predict other tasks.",
        show_default="all but identity",
    ),
]

# --- Detection

DrawStyle = Annotated[
    Style | None,
    typer.Option(
        "--draw-style", help="How faces are drawn.", show_default="corners", rich_help_panel=PICTURES
    ),
]
Overlay = Annotated[
    OverlayKind | None,
    typer.Option(
        "--overlay",
        help="What is drawn on each face; parsing tints its parts.",
        show_default="landmarks",
        rich_help_panel=PICTURES,
    ),
]
Score = Annotated[
    float | None,
    typer.Option(
        "--score",
        min=0.0,
        max=1.0,
        metavar="0..1",
        help="Minimum detection score.",
        show_default="0.54",
        rich_help_panel=DETECTION,
    ),
]
Thorough = Annotated[
    bool,
    typer.Option(
        "--thorough",
        help=(
            "Search at every scale and in four orientations. Finds small and turned faces; detection takes 3"
            " to 100 times as long."
        ),
        rich_help_panel=DETECTION,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Refuse photos with more pixels, before they are decoded.",
        rich_help_panel=DETECTION,
    ),
]

# --- Network

Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE|RUN",
        help="The network: an .onnx file, a .safetensors file, or the folder of a training run.",
        show_default="the embedded network",
        rich_help_panel=NETWORK,
    ),
]
OnnxWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="The network: an .onnx file.",
        show_default="the embedded network",
        rich_help_panel=NETWORK,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Inference threads.",
        show_default="all cores",
        rich_help_panel=NETWORK,
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        min=1,
        metavar="N",
        help="Batch size: faces per forward pass.",
        rich_help_panel=NETWORK,
    ),
]
FlipTTA = Annotated[
    bool,
    typer.Option(
        "--flip-tta",
        help="Horizontal-flip test-time augmentation: slightly more accurate, twice the time per face.",
        rich_help_panel=NETWORK,
    ),
]

# --- Matching

FMR_HELP = "Target false match rate: fraction of pairs of strangers that pass as one person, 1e-4 to 0.5."
VerifyFmr = Annotated[
    float | None,
    typer.Option("--fmr", metavar="RATE", help=FMR_HELP, show_default="0.01", rich_help_panel=MATCHING),
]
ClusterFmr = Annotated[
    float | None,
    typer.Option(
        "--fmr", metavar="RATE", help=FMR_HELP, show_default="a measured threshold", rich_help_panel=MATCHING
    ),
]
GalleryFmr = Annotated[float, typer.Option("--fmr", metavar="RATE", help=FMR_HELP, rich_help_panel=MATCHING)]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        metavar="-1..1",
        help="Minimum similarity of a match, instead of --fmr.",
        show_default="the threshold of --fmr",
        rich_help_panel=MATCHING,
    ),
]

# --- Output

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with more details instead of text.")]
Runs = Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Number of timed runs per stage.")]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="Job engine for large collections: PHOTOS and --out can be URIs; see docs/scale.md.",
        show_default="off",
        rich_help_panel=SCALE,
    ),
]
