"""Share between senders: the types of an adapter, authentication, bodies, image names, and common formats."""
