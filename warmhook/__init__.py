"""What Warmhook decides: pure values and functions, standard library only, no I/O, no clock, no randomness."""

__version__ = "0.1.0"
