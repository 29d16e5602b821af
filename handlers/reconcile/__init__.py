"""Reconcile the cluster with pushes, policies, Pods and reports: read, decide, write."""
