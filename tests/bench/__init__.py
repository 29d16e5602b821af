"""How fast and how small is Warmhook? `python -m tests.bench` measures figures and compares them with bars."""
