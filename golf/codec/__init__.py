"""Streams, entropy coders and the artifact container. Knows arrays, not models; docs/artifact-format.md is its text."""
