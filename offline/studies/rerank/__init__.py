"""What re-ranking for coverage costs: the study behind `python -m offline rerank`.

curve     accuracy against coverage over a sweep of settings
report    the curve on validation, the setting it chooses, and that one on the test
result    what is committed of it, as a file, a table and a page
"""
