"""Computations on components that experiments import inside functions: these modules load torch and numpy."""
