"""The self-contained program that ships: how it is built, started and what it does."""
