"""Make the runtime of a node catch up with the node's ConfigMap, and report."""
