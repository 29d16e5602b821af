"""Receive registries' webhooks and accept their pushes."""
