"""A data set in memory: tables, interactions, identifiers, credits and splits in time."""
