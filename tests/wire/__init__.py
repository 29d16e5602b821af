"""Compare what the programs say to the outside with recordings of it."""
