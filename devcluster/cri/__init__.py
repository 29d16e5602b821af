"""A container runtime's image half on a unix socket; also runnable alone: `python -m devcluster.cri`."""
