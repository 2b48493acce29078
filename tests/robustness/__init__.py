"""Hard use: damaged bytes, many threads and processes, long runs, full disks, no network.

See README.md in this folder.
"""
