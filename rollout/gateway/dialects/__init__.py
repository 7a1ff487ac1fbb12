"""The HTTP APIs that agents speak, each seen from its server."""
