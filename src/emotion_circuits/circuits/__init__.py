"""Which parts carry an emotion: heads, MLPs and neurons, what they read and write, and whether they suffice.

One idea a file: names of components, attention to emotion words, direct contributions, exact ablation, attribution
patching with its gate, OV and QK, patching, circuits and their faithfulness. Experiments stand on these functions.
"""
