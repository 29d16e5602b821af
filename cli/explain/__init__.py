"""Say why an image is not on a node: `warmhook explain`."""
