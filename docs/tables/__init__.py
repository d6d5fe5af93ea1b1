"""The tables that `docs/generate.py` writes into the pages, each from the code that it describes."""
