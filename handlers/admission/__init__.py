"""Answer admission reviews, and forward their Pods."""
