"""An example of each body of the API, by the name of its model in `schema`."""

from __future__ import annotations

from typing import Any

_ID = "5b0f4c1e9d6a4e0f8b1d2c3a4f5e6d7c"
_NETWORK = {"name": "mien_tiny", "sha256": "97e98527fffce9d056039ca2c1da9bed0eb89043a0fa09e8f57c6d1ca3e9ef28"}
_BOX = [172.4, 52.1, 275.9, 178.6]
_POINTS5 = [[202.1, 108.9], [245.6, 107.2], [224.4, 131.5], [207.3, 150.2], [243.1, 149.0]]
_ANN = {"person": "p_1", "name": "Ann", "similarity": 0.731, "fmr": 0.0011}
_PERSON = {
    "person": "p_1",
    "name": "Ann",
    "faces": ["f_1"],
    "corrections": 0,
    "note": "signed",
    "until": None,
    "expired": False,
}
_PHOTO = {
    "schema": 1,
    "path": None,
    "width": 512,
    "height": 512,
    "model": _NETWORK,
    "timing_ms": {"decode": 2.2, "detect": 19.7, "align": 0.3, "read": 12.9},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "Analysis": {
        "request_id": _ID,
        "results": [
            _PHOTO
            | {
                "faces": [
                    {
                        "box": _BOX,
                        "score": 0.9712,
                        "points5": _POINTS5,
                        "age": {
                            "years": 33.1,
                            "low": 25.0,
                            "high": 42.0,
                            "coverage": 0.8,
                            "at_least": {"13": 1.0, "16": 0.9996, "18": 0.9981, "21": 0.9852, "25": 0.9011},
                        },
                        "pose": {"yaw": 3.1, "pitch": -4.2, "roll": -1.5},
                    }
                ],
            },
            {
                "schema": 1,
                "path": None,
                "error": {"code": "empty_file", "message": "the 0 bytes given are empty"},
            },
        ],
    },
    "Verification": {
        "request_id": _ID,
        "similarity": 0.731,
        "same": True,
        "threshold": 0.4705,
        "false_match_rate": 0.01,
        "false_non_match_rate": 0.2,
        "source": "identity_fmr.json",
        "task": "identity",
        "model": _NETWORK,
        "faces": [
            {"box": _BOX, "score": 0.9712, "found": 1},
            {"box": _BOX, "score": 0.9631, "found": 2},
        ],
    },
    "Models": {
        "request_id": _ID,
        "limits": {"pictures": 16, "pixels": 40000000, "seconds": 30},
        "models": [
            _NETWORK
            | {
                "tasks": [
                    {"name": "age", "sensitive": False, "default": True},
                    {"name": "identity", "sensitive": True, "default": False},
                ]
            }
        ],
    },
    "Identified": {
        "request_id": _ID,
        "results": [
            _PHOTO
            | {
                "faces": [
                    {
                        "box": _BOX,
                        "score": 0.9712,
                        "match": _ANN,
                        "margin": None,
                        "threshold": 0.6,
                        "candidates": [_ANN],
                    },
                    {
                        "box": [400.0, 90.5, 470.2, 181.0],
                        "score": 0.91,
                        "match": None,
                        "margin": None,
                        "threshold": 0.6,
                        "candidates": [],
                    },
                ]
            }
        ],
    },
    "Enrolled": {
        "request_id": _ID,
        "added": [{"face": "f_1", "person": "p_1", "name": "Ann", "new": True, "possible_duplicate": None}],
    },
    "People": {"request_id": _ID, "people": [_PERSON]},
    "Changed": {"request_id": _ID, "person": _PERSON},
    "Corrected": {"request_id": _ID, "correction": "c_1"},
    "Stats": {
        "request_id": _ID,
        "people": 2,
        "faces": 5,
        "corrections": 1,
        "expired": 0,
        "sealed": False,
        "model": _NETWORK["sha256"],
        "task": "identity",
        "bytes": 24117,
        "versions": 6,
        "indexed": False,
        "threshold": 0.913,
        "fmr": 0.001,
        "stranger": 0.004990,
    },
    "Export": {
        "request_id": _ID,
        "next": None,
        "people": [
            _PERSON
            | {
                "faces": [{"id": "f_1", "added": "2026-11-24T10:00:00+00:00", "thumbnail": "/9j/"}],
                "corrections": [],
            }
        ],
    },
    "Forgotten": {"request_id": _ID, "people": 1, "faces": 3, "corrections": 0},
    "Health": {"status": "ok"},
    "Error": {
        "request_id": _ID,
        "error": {
            "code": "queue_full",
            "message": "64 requests are open, which is the limit",
            "details": {},
        },
    },
    "EditBody": {"name": "Ann", "until": "2999-01-31"},
    "MergeBody": {"others": ["p_2"]},
    "SplitBody": {"faces": ["f_2"], "name": "Eve"},
}
