"""Receive the webhooks of registries and accept their pushes."""
