"""Micro-benchmarks of the compiled leaves (pytest-benchmark), judged against a calibration of the same session."""
