"""End-to-end tests: the programs as processes, with a real containerd on every node."""
