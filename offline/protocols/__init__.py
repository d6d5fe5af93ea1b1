"""The protocols of evaluation: what models are trained on, which requests are made, and what is relevant.

A protocol turns a data set into a `Plan`: folds that label the ranker, folds that choose, one fold that tests. The
workflow runs any plan with the same code; nothing outside this package depends on which protocol it is.
"""

from __future__ import annotations

from offline.protocols.folds import BundleFit, Fold, Plan, TrainingView
from offline.protocols.plans import plan_of

__all__ = ["BundleFit", "Fold", "Plan", "TrainingView", "plan_of"]
