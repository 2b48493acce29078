"""Functions of DeepFace that mien answers in another way: each says in one sentence what to use."""

from __future__ import annotations

from typing import Any, NoReturn

from mien.errors import UsageError

_GALLERY = "use mien.Gallery('people', mien.load(tasks=['identity']))"


def stream(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused.

    Raises:
        UsageError: always; it names `mien video` and `mien.read_video`.
    """
    raise UsageError(
        "stream has no counterpart here; use mien video /dev/video0 --draw drawn.mp4 in a terminal,"
        " mien.read_video(source) in Python, or the camera of the page that mien serve shows"
    )


def register(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused.

    Raises:
        UsageError: always; it names `mien.Gallery`.
    """
    raise UsageError(
        f"register writes to a database server, which mien does not use; {_GALLERY}.add(photo, name)"
    )


def search(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused.

    Raises:
        UsageError: always; it names `mien.Gallery`.
    """
    raise UsageError(
        f"search reads from a database server, which mien does not use; {_GALLERY}.identify(photo), or find"
        " for a folder of photos"
    )


def build_index(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused.

    Raises:
        UsageError: always; it names `mien.Gallery`.
    """
    raise UsageError(f"build_index is not needed: {_GALLERY}, which is searched without an index to build")


def detectFace(*args: Any, **kwargs: Any) -> NoReturn:  # noqa: N802 (theirs)
    """Refused, as it is deprecated in DeepFace.

    Raises:
        UsageError: always; it names `extract_faces`.
    """
    raise UsageError("detectFace is deprecated in DeepFace too; use extract_faces(photo)[0]['face']")
