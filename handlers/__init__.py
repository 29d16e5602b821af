"""The program `web`, and `watch` beside it: from a registry's webhook to desired state for every node."""
