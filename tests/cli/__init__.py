"""The commands of `warmhook`."""
