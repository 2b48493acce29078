"""Memory use of a process."""

from __future__ import annotations

import sys
from pathlib import Path


def resident(pid: int | None = None) -> dict[str, float]:
    """Resident memory in MiB (2^20 bytes): "peak", the maximum so far, and "now".

    A value that the system does not report is absent: Linux reports both, macOS the peak of this process,
    Windows none.

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
