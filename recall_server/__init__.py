"""Recall: one package, one process per channel."""
