"""Measure how fast and how small Warmhook is: `python -m tests.bench` compares figures with bars."""
