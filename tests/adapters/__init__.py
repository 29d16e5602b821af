"""The adapters behave like the external systems that they wrap."""
