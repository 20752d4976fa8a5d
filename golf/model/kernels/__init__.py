"""Triton kernels, each beside its eager twin; what they gained and what was dropped stands in docs/log.md."""
