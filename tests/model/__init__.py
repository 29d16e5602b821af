"""Test the whole system against a model of sets, through random failures."""
