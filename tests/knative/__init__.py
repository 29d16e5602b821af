"""Tests of what passes between Warmhook and Knative."""
