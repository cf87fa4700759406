"""Pictures drawn from a run: the network with its drift, the map, curves, and animations."""
