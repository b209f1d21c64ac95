"""Planted-truth checks of subspaces, maps, transfer and similarity; each module has a ``CHECKS`` list."""
