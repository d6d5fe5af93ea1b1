"""ItemCF: item-to-item links by EASE or by cosine similarity."""
