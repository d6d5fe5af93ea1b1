"""One bundle version in memory: histories, identifiers, golden requests, hidden items."""
