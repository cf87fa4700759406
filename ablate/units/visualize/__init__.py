"""Feature visualization."""
