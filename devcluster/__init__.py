"""A cluster for one machine: API server, registry and CRI runtime, each also runnable alone."""
