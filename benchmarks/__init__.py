"""Each a command that prints a table and writes JSON; results/ keeps the measured ones."""
