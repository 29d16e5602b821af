"""What is released holds what its readers need, and nothing else."""
