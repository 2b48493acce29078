"""mien next to the tools that people run today, each in an environment and a process of its own.

python -m bench.peers --rounds 30 --limit 1000   # what is slow and what is fast: docs/peers-benchmark.md
"""
