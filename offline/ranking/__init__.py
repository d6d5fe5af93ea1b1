"""Training the second stage: samples, rankers, and the blend they have to beat."""
