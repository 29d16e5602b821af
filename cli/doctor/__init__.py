"""Check an installation: `warmhook doctor`."""
