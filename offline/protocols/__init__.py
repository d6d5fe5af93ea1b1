"""The protocols of evaluation: who may learn from what, what is asked, and what should be found.

A protocol turns a data set into a `Plan`: folds that label the ranker, folds that choose, one fold that tests. The
workflow runs any plan with the same code; nothing outside this package knows which protocol it is.
"""

from __future__ import annotations

from offline.protocols.folds import BundleFit, Fold, Plan, TrainingView
from offline.protocols.plans import plan_of

__all__ = ["BundleFit", "Fold", "Plan", "TrainingView", "plan_of"]
