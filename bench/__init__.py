"""Benchmarks: Kairos beside nginx and HAProxy, in the same minutes on the same machine. See `python -m bench -h`."""
