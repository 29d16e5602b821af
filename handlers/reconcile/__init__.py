"""Bring the cluster to what pushes, policies, Pods and reports ask for: read, decide, write."""
