"""Pictures: labels, legends, number of marks, and inputs left alone."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from mpl_toolkits.mplot3d import Axes3D

import isac_toolbox as isac
from isac_toolbox import plotting
from isac_toolbox.channel import UnlocatedPaths
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.inference.turbo import History, IterationRecord

N_ITER = 12


def perturbed(sim, n_missed=1, n_false=1) -> EstimationResult:
    """A result near the truth: the last scatterers missed, some points far outside added."""
    rng = np.random.default_rng(5)
    truth = sim.truth
    n_users, n_sub, n_symbols = truth.symbol_indices.shape
    kept = truth.scatterer_positions_m[: len(truth.scatterer_positions_m) - n_missed]
    points = kept + 0.1 * rng.standard_normal(kept.shape)
    points = np.vstack([points, sim.observation.region_m[0] - 10 * np.ones((n_false, 3))])
    n_points = len(points)
    probability = np.concatenate([np.ones(len(kept)), np.full(n_false, 0.6)])
    visibility = rng.random((n_users, n_points))
    history = History()
    for i in range(N_ITER):
        history.append(IterationRecord(-np.exp(-i), truth.noise_variance * (1 + np.exp(-i)), 9, 0.1 * i))
    return EstimationResult(
        estimator="by hand",
        channel=truth.channel,
        channel_variance=np.full(truth.channel.shape, 1e-4),
        scatterer_positions_m=points,
        scatterer_probability=probability,
        scatterer_covariance_m2=np.zeros((n_points, 3, 3)),
        visibility_probability=visibility,
        candidates=Candidates(points, probability, visibility),
        line_of_sight_probability=np.ones(n_users),
        unlocated_paths=UnlocatedPaths.none(),
        user_positions_m=truth.user_positions_m + 0.1,
        user_position_covariance_m2=np.zeros((n_users, 3, 3)),
        time_offsets_s=truth.time_offsets_s,
        time_offset_std_s=np.zeros(n_users),
        noise_variance=truth.noise_variance,
        symbol_mean=truth.symbols,
        symbol_decision=truth.symbol_indices,
        llr=np.zeros((n_users, n_sub, n_symbols, 2)),
        history=history,
        converged=True,
        n_iter=N_ITER,
        status="converged",
    )


@pytest.fixture(scope="module")
def sim():
    return isac.Scenario.load("urban_uplink").replace(n_subcarriers=8, n_data_symbols=1).simulate(0)


@pytest.fixture(scope="module")
def result(sim):
    return perturbed(sim)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def legend_of(owner) -> list[str]:
    legend = owner.legends[0] if hasattr(owner, "legends") else owner.get_legend()
    return [text.get_text() for text in legend.get_texts()]


def snapshot(value):
    """Nested copy of everything in a dataclass, comparable with ==."""
    if is_dataclass(value):
        return {f.name: snapshot(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    return copy.deepcopy(value)


def test_scene_has_labels_legend_and_every_point(sim, result):
    fig, axes = plotting.scene_3d(result, sim.truth, observation=sim.observation)
    space, above = axes
    assert isinstance(space, Axes3D) and not isinstance(above, Axes3D)
    assert (space.get_xlabel(), space.get_ylabel(), space.get_zlabel()) == ("x (m)", "y (m)", "z (m)")
    assert (above.get_xlabel(), above.get_ylabel()) == ("x (m)", "y (m)")
    assert legend_of(fig) == [
        "base station",
        "user, nominal",
        "user, true",
        "scatterer, true",
        "user, estimated",
        "scatterer, estimated",
        "region of the scatterers",
    ]
    for ax in axes:
        counts = [len(c.get_offsets()) for c in ax.collections]
        assert counts == [1, 3, 3, len(sim.truth.scatterer_positions_m), 3, len(result.scatterer_positions_m)]
    assert [t.get_text() for t in above.texts] == [
        str(i + 1) for i in range(len(result.scatterer_positions_m))
    ]


def test_scene_joins_only_matched_points(sim, result):
    _, axes = plotting.scene_3d(result, sim.truth)
    n_matched = len(sim.truth.scatterer_positions_m) - 1
    for ax in axes:
        assert len([line for line in ax.lines if line.get_gid() == "error"]) == n_matched + 3


def test_scene_shows_probability_and_equal_scales(sim, result):
    _, (space, above) = plotting.scene_3d(result, sim.truth, observation=sim.observation)
    marks = above.collections[-1]
    assert marks.get_sizes()[-1] < marks.get_sizes()[0]
    assert marks.get_facecolors()[-1, 3] < marks.get_facecolors()[0, 3]
    hollow = above.collections[3]
    assert len(hollow.get_facecolors()) == 0
    assert above.get_aspect() == 1
    ranges = np.array([np.ptp(space.get_xlim()), np.ptp(space.get_ylim()), np.ptp(space.get_zlim())])
    box = np.asarray(space._box_aspect)
    assert np.allclose(ranges / ranges.max(), box / box.max(), rtol=1e-6)


def test_scene_drops_lines_to_the_ground(sim, result):
    _, (space, _) = plotting.scene_3d(result, sim.truth, observation=sim.observation)
    ground = space.get_zlim()[0]
    drops = [
        line
        for line in space.lines
        if line.get_gid() is None and line.get_linestyle() == "-" and line.get_data_3d()[2][0] == ground
    ]
    expected = 1 + len(sim.truth.scatterer_positions_m) + 3 + len(result.scatterer_positions_m)
    assert len(drops) == expected


@pytest.mark.parametrize("with_observation", [True, False])
def test_scene_without_truth(sim, result, with_observation):
    obs = sim.observation if with_observation else None
    fig, _ = plotting.scene_3d(result, observation=obs)
    labels = legend_of(fig)
    assert not any("true" in label for label in labels)
    assert ("base station" in labels) == with_observation
    assert ("region of the scatterers" in labels) == with_observation


def test_scene_without_any_scatterer(sim):
    empty = perturbed(sim, n_missed=len(sim.truth.scatterer_positions_m), n_false=0)
    assert len(empty.scatterer_positions_m) == 0
    fig, _ = plotting.scene_3d(empty, sim.truth)
    fig.canvas.draw()
    assert "scatterer, estimated" not in legend_of(fig)


def test_scene_of_many_points_has_no_numbers(sim):
    crowded = perturbed(sim, n_false=30)
    _, (_, above) = plotting.scene_3d(crowded)
    assert not above.texts


def test_nothing_is_clipped(sim, result):
    fig, axes = plotting.scene_3d(result, sim.truth, observation=sim.observation)
    fig.canvas.draw()
    renderer, size = fig.canvas.get_renderer(), fig.bbox
    boxes = [fig.legends[0].get_window_extent(renderer), axes[1].get_tightbbox(renderer)]
    for box in boxes:
        assert size.x0 <= box.x0 and box.x1 <= size.x1 and size.y0 <= box.y0 and box.y1 <= size.y1
    assert not boxes[0].overlaps(boxes[1])


def test_inputs_are_left_alone(sim, result):
    before = [snapshot(v) for v in (result, sim.truth, sim.observation)]
    plotting.scene_3d(result, sim.truth, observation=sim.observation)
    plotting.convergence(result, nmse_db=np.zeros(N_ITER), bound_db=-3.0)
    assert [snapshot(v) for v in (result, sim.truth, sim.observation)] == before


def test_spectrum_slice():
    x, y = np.linspace(20, 80, 31), np.linspace(-30, 30, 21)
    values = 1 / (0.1 + (x[:, None] - 50) ** 2 + (y - 10) ** 2)
    copies = x.copy(), y.copy(), values.copy()
    fig, ax = plotting.spectrum_slice(
        x, y, values, truth_m=[[50, 10, 3.0]], candidates_m=[[49, 10], [30, 0]], height_m=3
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x (m)", "y (m)")
    assert "3.0 m" in ax.get_title()
    assert legend_of(ax) == ["true scatterer", "candidate"]
    mesh, truth, candidates = ax.collections
    assert isinstance(mesh.norm, matplotlib.colors.LogNorm)
    assert mesh.get_array().size == values.size
    assert (len(truth.get_offsets()), len(candidates.get_offsets())) == (1, 2)
    assert fig.axes[1].get_ylabel() == "MUSIC pseudo-spectrum (log scale)"
    peak = np.unravel_index(np.argmax(mesh.get_array()), (y.size, x.size))
    assert x[peak[1]] == 50 and y[peak[0]] == pytest.approx(9)
    assert all(np.array_equal(a, b) for a, b in zip(copies, (x, y, values)))


def test_spectrum_slice_on_given_axes_and_without_points():
    fig, ax = plt.subplots()
    same_fig, same_ax = plotting.spectrum_slice([0, 1], [0, 1, 2], np.ones((2, 3)), ax=ax)
    assert same_fig is fig and same_ax is ax
    assert ax.get_legend() is None
    fig.canvas.draw()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"values": np.ones((3, 2))}, "values"),
        ({"values": np.zeros((2, 3))}, "values"),
        ({"values": np.full((2, 3), np.nan)}, "values"),
        ({"grid_x_m": [1, 0]}, "grid_x_m"),
        ({"grid_y_m": [0, 1, np.inf]}, "grid_y_m"),
        ({"truth_m": [[1.0]]}, "true scatterer"),
    ],
)
def test_spectrum_slice_refuses(change, named):
    arguments = {"grid_x_m": [0, 1], "grid_y_m": [0, 1, 2], "values": np.ones((2, 3)), **change}
    with pytest.raises(ValueError, match=named):
        plotting.spectrum_slice(**arguments)


def test_convergence_of_the_objective(result):
    fig, ax = plotting.convergence(result)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "objective")
    assert legend_of(ax) == ["objective", "noise variance"]
    right = fig.axes[1]
    noise = result.history.noise_variance
    wide = noise.max() > 3 * noise.min()
    assert right.get_ylabel() == "noise variance (per sample)"
    assert right.get_yscale() == ("log" if wide else "linear")
    assert np.array_equal(ax.lines[0].get_xdata(), np.arange(1, N_ITER + 1))
    assert np.array_equal(ax.lines[0].get_ydata(), result.history.objective)
    assert np.array_equal(right.lines[0].get_ydata(), result.history.noise_variance)


def test_convergence_of_the_channel_error(result):
    _, own = plt.subplots()
    nmse = list(np.linspace(-5, -40, N_ITER))
    _, ax = plotting.convergence(result.history, nmse_db=nmse, bound_db=-42.0, ax=own)
    assert ax is own and ax.get_ylabel() == "channel NMSE (dB)"
    assert legend_of(ax) == ["channel NMSE", "hybrid Cramér-Rao bound", "noise variance"]
    assert ax.lines[1].get_ydata() == [-42.0, -42.0]


def test_convergence_refuses(result):
    with pytest.raises(ValueError, match="iteration"):
        plotting.convergence(History())
    with pytest.raises(ValueError, match="nmse_db"):
        plotting.convergence(result, nmse_db=[1.0, 2.0])
    with pytest.raises(ValueError, match="bound_db needs nmse_db"):
        plotting.convergence(result, bound_db=-40.0)


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda s, r: plotting.convergence(s), "result_or_history must be .* got Simulation"),
        (lambda s, r: plotting.convergence([1.0]), "result_or_history must be .* got list"),
        (lambda s, r: plotting.convergence(r, ax="here"), "ax must be matplotlib Axes, got str"),
        (lambda s, r: plotting.scene_3d(s), "result must be an EstimationResult, got Simulation"),
        (lambda s, r: plotting.scene_3d(r, s), "truth must be the Truth of a Simulation, got Simulation"),
        (lambda s, r: plotting.scene_3d(r, observation=s), "observation must be .* got Simulation"),
        (lambda s, r: plotting.sweep_curves(r, "nmse_db"), "result must be a SweepResult, got Estimation"),
        (lambda s, r: plotting.sweep_curves([], "nmse_db"), "result must be a SweepResult, got list"),
        (lambda s, r: plotting.reliability([[1, 0.5, 0]]), "bins must be a mapping .* got list"),
        (lambda s, r: plotting.coverage(np.ones(20)), "levels must be a mapping .* got ndarray"),
        (lambda s, r: plotting.reliability({"a": ["x"]}), r"bins\['a'\] must be numeric"),
    ],
)
def test_other_objects_are_named(sim, result, draw, named):
    with pytest.raises(TypeError, match=named):
        draw(sim, result)
    assert not plt.get_fignums()


def test_bins_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"bins\['a'\] must have shape \(bins, 3\)"):
        plotting.reliability({"a": np.ones((10, 2))})
    with pytest.raises(ValueError, match=r"levels\['a'\] must have shape \(bins,\)"):
        plotting.coverage({"a": np.ones((10, 2))})


def test_nothing_is_shown(sim, result, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("plt.show was called"))
    plotting.scene_3d(result, sim.truth)
    plotting.convergence(result)
    plotting.spectrum_slice([0, 1], [0, 1], np.ones((2, 2)))


# sweeps


@pytest.fixture(scope="module")
def swept():
    scenario = isac.Scenario.load("urban_uplink").replace(n_subcarriers=8, n_data_symbols=2, n_scatterers=2)
    return isac.sweep(scenario, {"snr_db": [-10, 30]}, ["nomp", "ls", "genie"], trials=2)


def curves_of(ax, kind="curve") -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.lines if line.get_gid() == kind}


def test_sweep_curves_are_the_summary(swept):
    own = {(e.point["snr_db"], e.estimator): e for e in swept.summary()}
    _, ax = plotting.sweep_curves(swept, "nmse_db", labels={"nomp": "NOMP", "ls": "LS", "genie": "genie"})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("SNR (dB)", "channel NMSE (dB)")
    curves = curves_of(ax)
    assert list(curves) == ["NOMP", "LS"]  # the genie's error of zero has no decibels
    for label, name in (("NOMP", "nomp"), ("LS", "ls")):
        assert curves[label].tolist() == [[x, own[x, name].nmse_db] for x in (-10, 30)]
    bound = curves_of(ax, "bound")["hybrid Cramér-Rao bound"]
    assert bound.tolist() == [[x, own[x, "nomp"].bound_nmse_db] for x in (-10, 30)]
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in ax.lines}
    assert len(looks) == 3


def test_rates_without_errors_are_upper_limits(swept):
    _, ax = plotting.sweep_curves(swept, "symbol_error_rate", labels={"genie": "channel known"})
    entry = next(e for e in swept.summary() if e.point["snr_db"] == 30 and e.estimator == "genie")
    assert entry.symbol_errors == 0 and ax.get_yscale() == "log"
    (limits,) = ax.containers
    assert limits.lines[0].get_ydata() == pytest.approx([3 / entry.symbols])


def test_few_blocks_show_their_own_bound(swept):
    few = tuple(row for row in swept.rows if row.estimator == "nomp" or row.trial == 0)
    rows = [replace(row, trial=row.trial + 2) for row in few if row.estimator == "nomp"]
    result = replace(swept, rows=(*few, *rows))  # four trials of one estimator, one of the other
    _, ax = plotting.sweep_curves(result, "nmse_db", labels={"nomp": "NOMP", "ls": "LS"})
    assert list(curves_of(ax, "bound")) == ["hybrid Cramér-Rao bound", "bound of LS"]
    assert [line.get_linestyle() for line in ax.lines if line.get_label() in ("LS", "bound of LS")] == 2 * [
        "None"
    ]


def test_nothing_to_draw_on_a_logarithmic_axis(swept):
    fig, ax = plotting.sweep_curves(swept, "rmse_m", labels={"ls": "LS"})  # least squares finds no scatterers
    fig.canvas.draw()
    assert not curves_of(ax) and ax.get_yscale() == "linear"


def test_every_metric_draws(swept):
    for metric in ("rmse_m", "found_percent", "false_alarms", "bit_error_rate", "user_rmse_m", "seconds"):
        _, ax = plotting.sweep_curves(swept, metric)
        assert curves_of(ax) and ax.get_ylabel()


def test_sweep_curves_refuse(swept):
    with pytest.raises(ValueError, match="metric must be one of rmse_m, nmse_db"):
        plotting.sweep_curves(swept, "beauty")
    with pytest.raises(ValueError, match=r"x must be a varied field \(snr_db\), got 'n_users'"):
        plotting.sweep_curves(swept, "nmse_db", x="n_users")


def test_reliability_and_coverage(swept):
    _, ax = plotting.reliability({"a": np.array([[0, 0.0, 0], [10, 8.0, 5]])})
    assert legend_handles(ax) == ["calibrated", "a"]
    points, caps, _ = ax.containers[0]
    assert points.get_xydata().tolist() == [[0.8, 0.5]]
    low, high = (cap.get_ydata()[0] for cap in caps)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson's interval of 5 in 10
    _, ax = plotting.coverage({"a": np.array([1, 1, 2, 0])})
    assert ax.lines[1].get_xydata().tolist() == [[0, 0], [0.25, 0.25], [0.5, 0.5], [0.75, 1], [1, 1]]
    assert ax.get_xlabel() == "level of the credible ellipsoid" and ax.get_ylabel() == "share inside"


def legend_handles(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def test_rays_point_where_paths_arrive_from(sim, result):
    ahead = UnlocatedPaths(np.zeros(1, int), np.zeros((1, 2)), np.ones(1), np.ones(1), np.ones(1))
    fig, axes = plotting.scene_3d(replace(result, unlocated_paths=ahead), observation=sim.observation)
    (ray,) = [line for line in axes[1].lines if line.get_gid() == "ray"]
    start, end = ray.get_xydata()
    boresight = sim.observation.array.axes[0][:2]
    assert np.allclose(start, sim.observation.bs_position_m[:2])
    assert np.allclose((end - start) / np.linalg.norm(end - start), boresight)
    assert "unlocated path, estimated" in legend_of(fig)
