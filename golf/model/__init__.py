"""The transformer, its blocks and attention backends."""
