"""Test the manifests against each other, the programs, and API servers."""
