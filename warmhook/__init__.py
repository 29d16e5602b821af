"""Decide everything that Warmhook does, in pure functions: standard library only, no I/O, no clock, no randomness."""

__version__ = "0.1.0"
