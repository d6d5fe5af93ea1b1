"""What every process of the recommender must agree on."""

__version__ = "0.1.0"
