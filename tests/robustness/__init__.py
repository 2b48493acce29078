"""Hard use: damaged bytes, many threads and processes, long runs, full disks, no network.

See docs/robustness.md.
"""
