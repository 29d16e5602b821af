"""Answer admission reviews and forward what they saw."""
