"""Stand-ins that ship: modules that only tell how a run goes, telling less. What is computed never depends on them."""
