"""What can go wrong, by name. Each message says the thing, the value and the fix."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class MienError(Exception):
    """Base of every error that mien raises on purpose.

    Attributes:
        code: a short stable word, the same in the library, the JSON error record and on stderr.
    """

    code = "error"


class PhotoError(MienError):
    """A photo could not be read. The rest of a batch goes on without it."""

    code = "photo"


class NotFound(PhotoError):
    """The path names nothing, or a folder without pictures."""

    code = "not_found"


class Unreadable(PhotoError):
    """The path exists, but the system does not let us read it."""

    code = "unreadable"


class EmptyFile(PhotoError):
    """The file or the bytes hold nothing."""

    code = "empty_file"


class NotAPicture(PhotoError):
    """The bytes are no picture in a format of the allow-list."""

    code = "not_a_picture"


class Truncated(PhotoError):
    """The picture starts well and then ends too early, or its data are damaged."""

    code = "truncated"


class TooLarge(PhotoError):
    """The header claims more pixels than the limit allows; nothing was decoded."""

    code = "too_large"


class BadArray(PhotoError):
    """An array is not an RGB picture: wrong shape, type or range."""

    code = "bad_array"


class NotWritten(PhotoError):
    """A picture that belongs to the photo could not be written: a drawing, a crop, a mask, a copy."""

    code = "not_written"


class BadWeights(MienError):
    """A weights file is missing, truncated, altered, or not one of ours."""

    code = "bad_weights"


class UnknownTask(MienError, KeyError):
    """A requested task does not exist, or the network does not predict it."""

    code = "unknown_task"

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0]) if self.args else ""


class UnknownLabel(MienError, KeyError):
    """A requested label does not exist in the prediction."""

    code = "unknown_label"

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0]) if self.args else ""


class MissingData(MienError):
    """A data set is not where the settings say it is."""

    code = "missing_data"


class StorageError(MienError):
    """An object store cannot be reached, or refuses the credentials or the request."""

    code = "storage"


class UsageError(MienError, ValueError):
    """A call was made with values that do not fit together."""

    code = "usage"


class PluginError(MienError):
    """A plug-in of another package cannot be used; the message names the package and the entry point."""

    code = "plugin"


def without_frames(error: E) -> E:
    """The error without the frames that it passed: they hold the photos read next to it, in a cycle that only
    the collector ends.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
