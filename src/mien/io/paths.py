"""Find photos and videos: files, folders and glob patterns -> paths."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mien.errors import NotFound, UsageError
from mien.io.image import url_refusal

# Extensions that a folder is searched for. A file that is given by name is read with any extension.
EXTENSIONS = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
    )
)

VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv")
    + (".3gp", ".ogv")
)


def file_key(path: str | os.PathLike[str]) -> str | tuple[int, int]:
    """Equal for two names of one file or folder: links of both kinds, and names that differ in case where the
    file system ignores case.

    Args:
        path: what is not there is compared by its path.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def drop_link(path: str | os.PathLike[str]) -> None:
    """Remove a name before it is written, if it is a link: the file that it shares must not change.

    Raises:
        OSError: it cannot be removed.
    """
    if os.path.islink(path) or (os.path.isfile(path) and os.stat(path).st_nlink > 1):
        os.unlink(path)


def split_videos(inputs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Videos among files, folders and globs, each once, and the inputs that are left for `find_photos`.

    A file is a video by its extension. A folder is searched as `find_photos` does; it is left for photos too
    if it holds any.
    """
    found: dict[str, str] = {}
    rest = []
    for path in inputs:
        if os.path.isdir(path):
            videos = [
                os.path.join(folder, name)
                for folder, names in _folders(path)
                for name in names or ()
                if _is_video_name(name)
            ]
            photos_too = not videos or bool(_photos_below(path))
        elif _has_magic(path) and not os.path.lexists(path):
            every = _photos_of_glob(path)
            videos = [p for p in every if _is_video_name(os.path.basename(p))]
            photos_too = len(videos) < len(every) or not every
        else:
            videos = [path] if _is_video_name(os.path.basename(path)) else []
            photos_too = not videos
        rest += [path] if photos_too else []
        for video in sorted(videos):
            found.setdefault(os.path.abspath(video), video)
    return list(found.values()), rest


def find_photos(inputs: Iterable[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[str]:
    """Files, folders and glob patterns -> paths of photos, in the given order, each once.

    A file is kept whatever its extension (the decoder decides). A folder is searched through all its levels
    for `EXTENSIONS`, sorted; links to folders are followed, each real folder once; names that start with a
    dot are left out. `*`, `?`, `[...]` and `**` are globs, unless the path exists as it is written; what a
    glob matches is treated like a folder's content, or taken as it is when the pattern ends in an extension
    of its own (`*.dat`). A path that does not exist is returned as it is, and so is a folder that may not be
    listed: `load_photo` has the error for it, and the other photos go on.

    Raises:
        NotFound: a folder or a pattern matches no pictures.
        UsageError: a URL.
    """
    found: dict[str, str] = {}  # absolute path -> as written
    for item in [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs:
        path = os.fspath(item)
        if refusal := url_refusal(path):
            raise UsageError(refusal)
        if os.path.isdir(path):
            photos = _photos_below(path)
            if not photos:
                raise NotFound(f"the folder {path!r} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
        elif _has_magic(path) and not os.path.lexists(path):
            photos = _photos_of_glob(path)
            if not photos:
                raise NotFound(
                    f"the pattern {path!r} matches no pictures; check it, or quote it in the shell"
                )
        else:
            photos = [path]
        for photo in photos:
            found.setdefault(os.path.abspath(photo), photo)
    return list(found.values())


def _has_magic(text: str) -> bool:
    return any(c in text for c in "*?[")


def _is_photo_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")


def _is_video_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not name.startswith(".")


def _folders(top: str) -> Iterator[tuple[str, list[str] | None]]:
    """(folder, the names of its files) for top and all below, each real folder once; None: it may not be
    listed.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            names = sorted(os.listdir(folder))
        except OSError:  # not swallowed: the caller hands the folder on, and load_photo tells why
            yield folder, None
            continue
        if (status.st_dev, status.st_ino) in seen:  # a link back up, or a second link to one folder
            continue
        seen.add((status.st_dev, status.st_ino))
        below = {n for n in names if os.path.isdir(os.path.join(folder, n))}
        yield folder, [n for n in names if n not in below]
        waiting += [os.path.join(folder, n) for n in sorted(below, reverse=True) if not n.startswith(".")]


def _photos_below(top: str) -> list[str]:
    """Sorted paths of the pictures in a folder, plus the folders that may not be listed."""
    found = []
    for folder, names in _folders(top):
        found += [folder] if names is None else [os.path.join(folder, n) for n in names if _is_photo_name(n)]
    return sorted(found)


def _photos_of_glob(pattern: str) -> list[str]:
    """Sorted paths that a pattern matches, folders among them searched.

    Own code: glob's `**` runs around in loops.
    """
    parts = Path(pattern).parts
    known = 0  # leading parts that exist as written, even with a [ in their name
    while known < len(parts) and os.path.lexists(os.path.join(*parts[: known + 1])):
        known += 1
    extension = os.path.splitext(parts[-1])[1]
    any_name = bool(extension) and not _has_magic(extension)
    found: set[str] = set()
    for path in _matches(os.path.join(*parts[:known]) if known else os.curdir, parts[known:]):
        path = path.removeprefix(os.curdir + os.sep)
        if os.path.isdir(path):
            found.update(_photos_below(path))
        elif any_name or _is_photo_name(os.path.basename(path)):
            found.add(path)
    return sorted(found)


def _matches(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """Paths below folder that fit the parts of a pattern; a leading dot must be written out."""
    if not parts:
        yield folder
        return
    head, rest = parts[0], parts[1:]
    path = os.path.join(folder, head)
    if head == "**":
        for inside, names in _folders(folder) if os.path.isdir(folder) else ():
            if names is None:
                yield inside
            elif rest:
                yield from _matches(inside, rest)
            else:
                yield from (os.path.join(inside, name) for name in names)
    elif not _has_magic(head):
        if os.path.lexists(path):
            yield from _matches(path, rest)
    elif os.path.isdir(folder):
        try:
            names = sorted(os.listdir(folder))
        except OSError:  # as in _folders
            yield folder
            return
        for name in names:
            if fnmatch.fnmatchcase(name, head) and (head.startswith(".") or not name.startswith(".")):
                yield from _matches(os.path.join(folder, name), rest)
