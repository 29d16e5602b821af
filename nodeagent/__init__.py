"""The node program: makes the node's runtime catch up with the node's ConfigMap, and reports."""
