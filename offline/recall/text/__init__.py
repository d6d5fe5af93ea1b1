"""A vector for what is written about each item: from an embeddings endpoint, or made here from the words themselves."""
