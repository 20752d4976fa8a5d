"""What a machine can do, measured in seconds before a run is paid for: ``python -m golf.machine.probe``."""
