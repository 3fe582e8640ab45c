"""Clients written by others drive the simulator, and play the channel towards the real gateway: `./run conformance`."""
