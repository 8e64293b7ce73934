"""Kairos: an API gateway and reverse proxy in Python with a compiled hot path."""

__version__ = "0.1.0"
