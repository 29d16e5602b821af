"""Run the command `warmhook`: demo, development cluster, CRDs, reading a delivery."""
