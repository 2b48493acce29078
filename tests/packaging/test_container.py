"""The image's file: a user without rights, a health check that works, and only the package inside."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def last(instruction: str) -> str:
    """What follows the last of an instruction, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == instruction][-1]


def test_the_user_has_no_rights() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert DOCKERFILE.index("\nUSER") > DOCKERFILE.rindex("\nRUN")


def test_the_server_starts_with_keys_and_the_telemetry_off() -> None:
    words = [*ast.literal_eval(last("ENTRYPOINT")), *ast.literal_eval(last("CMD"))]
    assert words[:2] == ["mien", "serve"]
    assert "--api-keys" in words  # which any address but loopback needs
    assert words[words.index("--port") + 1] == last("EXPOSE")
    assert "ORT_DISABLE_TELEMETRY=1" in last("ENV")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in rules
    copied = [w for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for w in line.split()[:-1]]
    assert "src" in copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in rules


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_tells_a_healthy_server(status: int, code: int) -> None:
    """Its own command, against a server on another port."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    words = ast.literal_eval(last("HEALTHCHECK").partition("CMD ")[2])
    assert words[:2] == ["python", "-c"]
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        check = words[2].replace(last("EXPOSE"), str(server.server_port))
        done = subprocess.run([sys.executable, "-c", check], check=False, timeout=60)
        server.shutdown()
        thread.join()
    assert done.returncode == code
    assert asked == ["/healthz"]
