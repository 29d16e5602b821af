"""The programs `web` and `watch`: from a registry's webhook to desired state for every node."""
