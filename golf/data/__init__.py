"""Corpora, shards, tokenizers, byte counting, loaders."""
