"""Do the manifests fit together, the programs they start, and the API servers they are for?"""
