"""Programs of different versions understand each other."""
