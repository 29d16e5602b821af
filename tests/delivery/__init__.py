"""Test deliveries of simulated senders during failures."""
