"""Does the command do what its help says?"""
