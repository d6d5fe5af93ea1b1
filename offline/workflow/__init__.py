"""From tables to published bundles: configuration, and the steps in order."""
