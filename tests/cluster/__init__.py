"""End-to-end tests on the cluster of `WARMHOOK_TEST_KUBECONFIG`; see `stack` for what they need of it."""
