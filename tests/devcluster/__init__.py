"""Tests of the embedded API server, registry and runtime: what the contracts leave out."""
