"""Studies of models and data: benchmark, re-ranking curve, report of embeddings."""
