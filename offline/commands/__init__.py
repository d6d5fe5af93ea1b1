"""`python -m offline VERB`: parsing, and what each verb does."""
