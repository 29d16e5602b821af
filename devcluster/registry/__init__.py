"""A registry on loopback that serves a folder; also runnable alone: `python -m devcluster.registry`."""
