"""How many examples do generated tests try? Few where people wait, many in `make test` (--hypothesis-profile)."""

from hypothesis import settings

settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("quick")
