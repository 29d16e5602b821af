"""Does the whole system, whatever happens to it, end where a page of set theory says it should?"""
