"""Parts of the scene estimator: problem, fit, refinement, working set, structure, location, loop."""
