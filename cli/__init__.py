"""The command `warmhook`: see it work, try policies, print CRDs, read a delivery."""
