"""Show how far images have come on nodes: `warmhook status`."""
