"""Statistics that every claim goes through: effects, resampling, multiplicity, power and designs.

Numpy, scipy and statsmodels only: nothing here knows what a model is. One idea a file; import from the file.
Misuse (too few units, NaN, unpaired ids, an undeclared family, testing on the data that selected a cell) raises
:class:`~emotion_circuits.errors.UsageError` with what to do instead.
"""
