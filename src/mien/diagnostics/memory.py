"""What a process holds of the machine's memory."""

from __future__ import annotations

import sys
from pathlib import Path


def resident(pid: int | None = None) -> dict[str, float]:
    """Megabytes (2^20 bytes): "peak", the most so far, and "now"; what the system does not tell is absent.

    Linux tells both, macOS the peak of this process, Windows nothing.

    Args:
        pid: another process; None for this one.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():  # the other count starts at what the parent had
        lines = dict(
            line.split(":", 1)
            for line in status.read_text(encoding="ascii", errors="replace").splitlines()
            if ":" in line
        )
        return {
            name: round(int(lines[key].split()[0]) / 1024, 1)
            for name, key in (("peak", "VmHWM"), ("now", "VmRSS"))
            if key in lines
        }
    try:
        import resource
    except ImportError:
        return {}
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {} if pid else {"peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
