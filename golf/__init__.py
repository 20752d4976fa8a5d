"""Fairway's library: everything that a stage computes, from raw text to a scored artifact."""
