"""Do senders keep their rules, and keep what they were promised, while things go wrong?"""
