"""Exposure bonuses, learned from the lists that the models make."""
