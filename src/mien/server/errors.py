"""Error replies of the server: one format, one code per reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.errors import MienError, PhotoError

NEEDED = (
    "the server needs FastAPI, uvicorn, python-multipart and prometheus-client: pip install 'mien[serve]'"
)
# code of a picture's error -> HTTP status of a request for that picture alone
PHOTO_STATUS = {"empty_file": 400, "not_a_picture": 415, "too_large": 413, "truncated": 422}


class ApiError(MienError):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: a short stable word.
        message: the thing, the value and the fix.
        details: plain JSON values.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.details = status, code, dict(details or {})
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, int(-(-retry_after // 1))))
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


def envelope(error: ApiError, request_id: str) -> dict[str, Any]:
    """The body of every error reply."""
    return {
        "error": {"code": error.code, "message": str(error), "details": error.details},
        "request_id": request_id,
    }


def of_photo(error: PhotoError, number: int) -> ApiError:
    """The error of a picture as the reply to a request for that picture alone."""
    return ApiError(PHOTO_STATUS.get(error.code, 422), error.code, str(error), details={"image": number})
