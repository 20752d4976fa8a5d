"""The typed parameters: one module and one frozen dataclass for each section of params.yaml."""
