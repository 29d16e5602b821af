"""Tests of the registry adapters: every sender's cases, any input, tokens, and the page about senders."""
