"""Compiled leaves: one concern a module, no socket, clock, loop or log in any."""
