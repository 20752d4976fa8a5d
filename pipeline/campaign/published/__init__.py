"""Reading a checkout of the public challenge."""
