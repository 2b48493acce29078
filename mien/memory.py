"""What this process holds of the machine's memory."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")  # Linux. The other count starts at what the parent had


def resident() -> dict[str, float]:
    """Megabytes (2^20 bytes): "peak", the most so far, and "now" where the system tells; neither where it tells nothing (Windows)."""
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines() if ":" in line)
        return {name: round(int(lines[key].split()[0]) / 1024, 1) for name, key in (("peak", "VmHWM"), ("now", "VmRSS"))}
    try:
        import resource
    except ImportError:
        return {}
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
