"""Serve HTTP and HTTPS: ports, certificates, limits, request bodies."""
