"""Runs and watches the graph: drives DVC as a command, reads files, imports no model."""
