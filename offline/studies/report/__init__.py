"""Embedding analysis for people: what the two-tower model of a bundle has made of items and users, in one folder."""
