"""Are the adapters right about the outside things they stand for?"""
