"""Drawings of studies of units."""
