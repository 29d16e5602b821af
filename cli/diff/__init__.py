"""Compare what nodes should hold with what they report: `warmhook diff`."""
