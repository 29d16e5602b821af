"""What several senders share: reading bodies, checking secrets, naming images, and formats with more than one user."""
