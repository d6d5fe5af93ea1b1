"""Steps that are skipped while nothing they depend on has changed, and what they cost."""
