"""Talk to the API server, the only store and the only bus."""
