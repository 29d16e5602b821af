"""Look for input of senders, people and nodes that Warmhook has no answer to."""
