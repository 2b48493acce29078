"""Object stores: what their errors mean, and the settings that two libraries need."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mien.errors import MienError, StorageError

_CREDENTIALS = re.compile(
    r"ACCESS_?DENIED|INVALID_?ACCESS_?KEY|SIGNATURE_?DOES_?NOT_?MATCH|UNRECOGNIZED_CLIENT|EXPIRED_?TOKEN"
    r"|INVALID_?CLIENT_?TOKEN|INVALID_?SIGNATURE|CREDENTIALS|FORBIDDEN|UNAUTHORIZED|PERMISSION|\b40[13]\b",
    re.I,
)
_BUCKET = re.compile(r"NO_?SUCH_?BUCKET", re.I)
_NETWORK = re.compile(
    r"NETWORK_CONNECTION|COULD NOT CONNECT|CONNECT ERROR|CONNECTION|RESOLVE|TIMED? ?OUT", re.I
)
LONGEST = 300  # characters of a library's own message


def is_uri(text: str) -> bool:
    """Whether this is scheme://..., not a path of this machine."""
    return "://" in text


def explained(uri: str, error: Exception) -> StorageError:
    """The error of a library about an object store, with its cause and what to do."""
    text = " ".join(str(error).split())
    if _CREDENTIALS.search(text):
        cause = (
            "the credentials are missing, wrong, expired or not allowed to do this; for s3:// set"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN"
        )
    elif _BUCKET.search(text):
        cause = "there is no such bucket; check the name, or create it"
    elif _NETWORK.search(text):
        cause = "the store cannot be reached; check the network and, for s3://, AWS_ENDPOINT_URL"
    else:
        cause = "check the address and the settings of the store"
    shown = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return StorageError(f"cannot use {uri!r}: {cause} ({shown})")


@contextmanager
def explaining(uri: str) -> Iterator[None]:
    """Within it, errors of libraries about an object store are raised as `StorageError`.

    Paths of this machine are left as they are.
    """
    try:
        yield
    except MienError:
        raise
    except (OSError, RuntimeError, ValueError) as e:
        if not is_uri(uri) or uri.startswith("file://"):
            raise
        raise explained(uri, e) from e


def lance_options(uri: str, options: Mapping[str, str] | None) -> dict[str, str] | None:
    """LanceDB's storage options: as given, and for an endpoint that is http://, that this is wanted."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    given = dict(options or {})
    if uri.startswith(("s3://", "s3a://")) and endpoint.startswith("http://"):
        given.setdefault("allow_http", "true")
    return given or None
