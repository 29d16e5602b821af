"""Is there anything that a sender, a person or a node can say that Warmhook has no answer to?"""
