"""Commands of mien in a process that dies when it goes to the network, in Python or in native code.

    python -m tests.support.socket_guard socket COMMANDS.json

The first argument is what the kernel forbids: "socket", an internet socket, or "connect", any connection.
COMMANDS.json: a list of [arguments, exit code]. Each command that ends is printed. The process exits with 1
if an exit code was another, with 3 where this system has no such guard, and is killed by SIGSYS at what is
forbidden.
"""

from __future__ import annotations

import ctypes
import json
import platform
import struct
import sys
from pathlib import Path

# Audit architecture, and the numbers of the system calls
CALLS = {
    "x86_64": (0xC000003E, {"socket": 41, "connect": 42}),
    "aarch64": (0xC00000B7, {"socket": 198, "connect": 203}),
}
AF_INET, AF_INET6 = 2, 10
KILL, ALLOW = 0x80000000, 0x7FFF0000
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06  # of the packet filter's instructions
NO_GUARD = 3


def forbid(call: str) -> bool:
    """Let the kernel kill this process and its children at a system call.

    Args:
        call: "socket" for sockets of IPv4 and IPv6, "connect" for connections of every kind.

    Returns:
        Whether the kernel took the filter.
    """
    if sys.platform != "linux" or platform.machine() not in CALLS:
        return False
    arch, numbers = CALLS[platform.machine()]
    families = [(LOAD, 0, 0, 16), (EQUALS, 2, 0, AF_INET), (EQUALS, 1, 0, AF_INET6), (RETURN, 0, 0, ALLOW)]
    rest = families if call == "socket" else []
    # seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
    program = [
        (LOAD, 0, 0, 4),
        (EQUALS, 1, 0, arch),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, 0),
        (EQUALS, 1, 0, numbers[call]),
        (RETURN, 0, 0, ALLOW),
        *rest,
        (RETURN, 0, 0, KILL),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero):  # PR_SET_NO_NEW_PRIVS
        return False
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    return not libc.prctl(22, ctypes.c_ulong(2), ctypes.c_void_p(ctypes.addressof(filter_)), zero, zero)


def prepare() -> None:
    """A protocol of drawn faces, and files that stand for onnxruntime-web."""
    import hashlib

    from mien.data.synthetic import toy
    from mien.evaluation import protocols
    from mien.web import build

    drawn = protocols.Protocol("drawn", lambda: toy("test", n=4), "age", "drawn", ("mae",))
    protocols.PROTOCOLS["drawn"] = drawn
    build.ORT_FILES = {name: hashlib.sha256(name.encode()).hexdigest() for name in build.ORT_FILES}


def main() -> None:
    """See the module."""
    if not forbid(sys.argv[1]):
        sys.exit(NO_GUARD)
    prepare()
    from typer.testing import CliRunner

    from mien.cli import app

    wrong = False
    for words, expected in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        done = CliRunner().invoke(app, words)
        code = (
            2 if done.exit_code == 1 and type(done.exception).__module__ == "mien.errors" else done.exit_code
        )
        print(*words[:2], flush=True)
        if code != expected:
            said = (done.output[-1000:], done.exception)
            print(f"{words[:2]}: exit code {code}, not {expected}:", *said, file=sys.stderr)
            wrong = True
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
