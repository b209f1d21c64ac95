"""Computations on pairs of models that experiments import inside functions: these modules load numpy and scipy."""
