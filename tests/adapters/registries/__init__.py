"""Is what registries send understood?"""
