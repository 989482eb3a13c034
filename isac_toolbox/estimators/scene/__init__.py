"""Parts of the scene estimators, from an observation to its result.

::

    UplinkObservation
      ReceivedBlock      samples and known symbols, scaled          (symbols/block.py)
      Measurements       their statistics, and the receiver         (channel/atoms/dense.py)
      Problem            with priors, region and noise              (problem.py)
      Fit                a scene with the gains that suit it best   (fit.py, moved by refine.py)
      WorkingSet         with the sparse prior's beliefs            (working_set.py, changed by structure.py)
      SceneEstimate      what is said of the scene                  (scene_estimate.py, from loop.py)
    EstimationResult     filled in by ``build_result`` alone             (assemble.py)

All of them are frozen; a step returns new ones.
"""
