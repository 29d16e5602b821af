"""Why an image is not on a node: each broken situation names its culprit."""
