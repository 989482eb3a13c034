"""The names that a setting may take, for the code that checks them and for the command line that offers them.

Nothing is imported here, so that ``isac --help`` can list the names without loading what they stand for.
"""

__all__ = [
    "COARSE_STAGES",
    "DTYPES",
    "INVERSES",
    "LAYER_DENSITIES",
    "M_STEPS",
    "REMOVALS",
    "RULES",
    "SUPPORTS",
]

#: Update rules of the sparse prior.
RULES = ("extrinsic", "structured", "mean_field")

#: Stages that find the first scene.
COARSE_STAGES = ("nomp", "music")

#: Refinements of positions and clocks.
M_STEPS = ("gauss_newton", "gradient")

#: E-steps: on the working set, or on a grid over the region with a full or a majorised inverse.
INVERSES = ("subspace", "full", "mm")

#: Precisions of the numbers.
DTYPES = ("complex128", "complex64")

#: Support graphs of a compressed layer.
SUPPORTS = ("chain", "independent")

#: Scores by which SSVI removes weights.
REMOVALS = ("snr", "magnitude", "mean_abs", "exp_mean", "exp_snr", "structured")

#: Rules that share SSVI's density out among the layers.
LAYER_DENSITIES = ("uniform", "erk", "first_layer_dense", "ends_dense")
