"""What is read from one photo: its faces, and what else is known of it."""

from __future__ import annotations

from typing import Any, SupportsIndex, overload

from mien.errors import PhotoError, UsageError
from mien.io.image import Photo
from mien.types import Face, Pixels

SCHEMA = 1
_LISTED = 3  # faces that `repr` describes


class Reading(list[Face]):
    """The faces of one photo, largest first: a list, with what else is known of the photo.

    Two readings are equal only if they are the same object; a reading equals a plain list of the same faces.
    A slice is a reading of the same photo. In a notebook, a reading shows its photo with the faces drawn in.

    Attributes:
        path: as the caller wrote it, or None.
        photo: the upright photo, or None when it could not be read.
        error: why the photo was not read, or None.
        timing_ms: stage -> milliseconds.
        model: name and sha256.
    """

    def __init__(
        self,
        path: str | None,
        photo: Photo | None = None,
        error: PhotoError | None = None,
        model: dict[str, str] | None = None,
    ):
        super().__init__()
        self.path, self.photo, self.error, self.model = path, photo, error, model or {}
        self.timing_ms: dict[str, float] = {}

    @overload
    def __getitem__(self, index: SupportsIndex) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Reading: ...
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if not isinstance(index, slice):
            return found
        part = Reading(self.path, self.photo, self.error, self.model)
        part.timing_ms = dict(self.timing_ms)
        part += found
        return part

    def copy(self) -> Reading:
        """A reading of the same photo with the same faces."""
        return self[:]

    def __eq__(self, other: object) -> bool:
        return self is other if isinstance(other, Reading) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __repr__(self) -> str:
        name = "" if self.path is None else f" {self.path!r}"
        if self.error is not None:
            return f"<Reading{name}: not read ({self.error.code})>"
        size = "" if self.photo is None else f" {self.photo.width}x{self.photo.height}"
        faces = ", ".join(repr(f) for f in self[:_LISTED])
        if len(self) > _LISTED:
            faces += f" and {len(self) - _LISTED} more"
        return f"<Reading{name}{size}, {len(self)} face{'' if len(self) == 1 else 's'}: [{faces}]>"

    def draw(self, **options: Any) -> Pixels:
        """The photo with the faces drawn in: `mien.annotate` with the pixels of this photo.

        Args:
            options: as `mien.annotate` takes them.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            PhotoError: the photo was not read, or its pixels cannot be read again.
            UsageError: the pixels were dropped.
        """
        from mien.visualize.drawing import annotate

        if self.error is not None:
            raise self.error
        if self.photo is None:
            raise UsageError("the pixels of this reading were dropped; read the photo again to draw it")
        return annotate(self.photo.pixels, self, **options)

    def show(self, **options: Any) -> None:
        """Open the drawn photo in the picture viewer of the system.

        In a notebook, a reading as the last line of a cell shows itself.

        Args:
            options: as `mien.annotate` takes them.

        Raises:
            PhotoError, UsageError: see `draw`; UsageError also where the system has no picture viewer.
        """
        from PIL import Image, ImageShow

        if not ImageShow.show(Image.fromarray(self.draw(**options)), title=self.path or "mien"):
            raise UsageError(
                "no picture viewer was found on this system; write the picture to a file instead: "
                "PIL.Image.fromarray(reading.draw()).save('drawn.jpg')"
            )

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the drawn photo as a small PNG; None where there are no pixels."""
        from mien.visualize.notebook import drawn_png

        return None if self.photo is None else drawn_png(self.draw())

    def _repr_html_(self) -> str:
        """For notebooks: the drawn photo, and one table row per face."""
        from mien.visualize.notebook import reading_html

        return reading_html(self, self._repr_png_())

    def to_dict(self) -> dict[str, Any]:
        """The photo as plain JSON values (docs/schema.md), or its error record."""
        head: dict[str, Any] = {"schema": SCHEMA, "path": self.path}
        if self.error is not None or self.photo is None:
            code, message = (self.error.code, str(self.error)) if self.error else ("photo", "not read")
            return head | {"error": {"code": code, "message": message}}
        timing = {k: round(v, 2) for k, v in self.timing_ms.items()}
        size = {"width": self.photo.width, "height": self.photo.height}
        return head | size | {"model": self.model, "timing_ms": timing, "faces": [f.to_dict() for f in self]}

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row per face; `mien.io.dataframe.to_dataframe` takes several readings.

        Raises:
            UsageError: pandas is not installed.
        """
        from mien.io.dataframe import to_dataframe

        return to_dataframe(self)

    def to_supervision(self) -> Any:
        """supervision's `Detections`: `mien.io.dataframe.to_supervision`.

        Raises:
            UsageError: supervision is not installed.
        """
        from mien.io.dataframe import to_supervision

        return to_supervision(self)
