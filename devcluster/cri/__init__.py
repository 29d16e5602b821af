"""The image half of a container runtime on a unix socket; also runnable alone: `python -m devcluster.cri`."""
