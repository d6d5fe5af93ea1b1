"""Reading data sets: one module per format, all yielding the same rows (see `offline.ingest.datasets.records`)."""
