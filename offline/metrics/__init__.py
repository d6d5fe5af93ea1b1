"""Ranking metrics, properties of lists beyond accuracy, and plain-text tables."""
