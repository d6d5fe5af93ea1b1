"""The second stage: what orders candidates, how each is trained and exported, and which one is published."""
