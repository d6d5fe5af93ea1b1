"""New items into a published bundle without training, for `python -m offline index`.

items    what there is to recommend now, and the released bundle's events of it
rows     arrays by catalogue row, moved from the rows of the old catalogue to those of the new one
graph    the same for the tables inside a ranker's graph
texts    text vectors of the new items
towers   the vector channel, computed again by the towers as they were trained
parts    every file of the new bundle
job      the step, and the publication
"""
