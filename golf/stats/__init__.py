"""Seeds, Welch, power."""
