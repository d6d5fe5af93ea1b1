"""From raw files and recorded events to tables."""
