"""Offline jobs: from raw interactions to a published bundle, and its evaluation."""
