"""Wrap everything outside the programs, one thing per module: registries, the API server, the runtime."""
