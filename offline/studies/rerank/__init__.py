"""Re-ranking offline, and `python -m offline rerank`, which says what coverage costs.

exposure  bonuses with which lists show more of the catalogue
lists     settings, what is learned, and recorded lists ordered anew
curve     accuracy against coverage over a sweep of settings
report    the curve on validation, the setting it chooses, and that one on the test
result    what is committed of it, as a file, a table and a page
verb      the verb
"""
