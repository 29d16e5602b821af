"""Serve the page that shows images on nodes, pushes and deliveries, to readers who may see them."""
