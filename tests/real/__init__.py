"""Real programs for tests: containerd, Debian's docker-registry and skopeo, started and stopped as contexts."""
