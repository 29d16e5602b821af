"""Show what an object would bring to nodes: `warmhook plan`."""
