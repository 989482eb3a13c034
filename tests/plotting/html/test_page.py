"""The interactive page: complete in itself, the result's own numbers, and drawn by a real browser."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import isac_toolbox as isac
from helpers.browser import CHROMIUM, Browser
from isac_toolbox.channel import UnlocatedPaths
from isac_toolbox.channel.geometry import bistatic_delays_s, unit_vectors
from isac_toolbox.cli import commands as cli
from isac_toolbox.estimators import SceneRecorder
from isac_toolbox.inference.turbo import TurboLoop
from isac_toolbox.plotting import OKABE_ITO, scene_html

pytest.importorskip("plotly", reason='needs the extra "html"')

N_USERS = 2
SMALL = {
    "n_subcarriers": 32,
    "n_scatterers": 4,
    "array_shape": (6, 6),
    "n_users": N_USERS,
    "n_data_symbols": 4,
}
ESTIMATE = ["estimate", "urban_uplink"]
for key, value in SMALL.items():
    ESTIMATE += ["--set", f"{key}={list(value) if isinstance(value, tuple) else value}"]
TRUE_SIZE, ENLARGED = "95 % ellipsoid, true size", "95 % ellipsoid, drawn 10 times larger"
CHI_SQUARED_95 = 7.814728


@pytest.fixture(scope="module")
def sim():
    return isac.Scenario.load("urban_uplink").replace(**SMALL).simulate(0)


@pytest.fixture(scope="module")
def recorded(sim):
    """A result with one scatterer moved away (one false, one missed), and the recording of its run."""
    recorder = SceneRecorder()
    result = isac.EMTurboBiSVBI(max_iter=5).estimate(sim.observation, callback=recorder)
    positions, visibility = result.scatterer_positions_m.copy(), result.visibility_probability.copy()
    positions[1] += [9.0, 3.0, 4.0]
    visibility[0, 2] = 0.123
    moved = dataclasses.replace(result, scatterer_positions_m=positions, visibility_probability=visibility)
    return moved, recorder


@pytest.fixture(scope="module")
def page(sim, recorded):
    result, recorder = recorded
    return scene_html(result, sim.truth, observation=sim.observation, recording=recorder, title="a <b> & c")


def data_of(page: str) -> dict:
    """What the page hands to plotly, with the texts that it repeats spread out."""
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)[1])
    frames = data["figure"].get("frames", [])
    for trace in data["figure"]["data"] + [t for frame in frames for t in frame["data"]]:
        text = trace.get("hovertext")
        if isinstance(text, dict):
            trace["hovertext"] = [t for t in text["of"] for _ in range(text["repeat"])]
    return data


@pytest.fixture(scope="module")
def figure(page):
    return data_of(page)["figure"]


def trace_of(figure: dict, name: str) -> dict:
    (found,) = [t for t in figure["data"] if t["name"] == name]
    return found


def points_of(trace: dict) -> np.ndarray:
    return np.column_stack([trace[axis] for axis in "xyz"]).astype(float).reshape(-1, 3)


# the page


def test_page_loads_nothing_from_elsewhere(page):
    head, foot = page[: page.index("<script>")], page[page.rindex('id="page-data"') :]
    assert not re.search(r"<script[^>]+src|<link|<img|<iframe|@import", head + foot)
    assert not re.search(r"<script[^>]+\bsrc\s*=\s*[\"']?http|<link[^>]+href", page)
    assert "https:" not in head + foot and "http:" not in head + foot
    assert "default-src 'none'" in head
    assert len(page.encode()) < 6e6


def test_title_is_text_not_markup(page, sim, recorded):
    assert "<title>a &lt;b&gt; &amp; c</title>" in page and "a <b> & c" not in page
    assert f"<h1>{recorded[0].estimator}<small>" in scene_html(recorded[0])


def test_header_has_the_numbers_of_the_metrics(page, sim, recorded):
    result, truth = recorded[0], sim.truth
    match = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    shown = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    assert shown["scatterers found"] == f"{match.hits} of {len(truth.scatterer_positions_m)}"
    assert shown["false"] == str(match.false_alarms) == "1"
    assert shown["position RMSE (within 2 m)"] == f"{match.rmse_m:.3f} m"
    assert shown["channel NMSE"] == f"{isac.metrics.channel_nmse_db(result.channel, truth.channel):.1f} dB"


def test_plotly_accepts_every_trace_and_frame(figure):
    import plotly.graph_objects as go

    kinds = [trace["type"] for trace in figure["data"]]
    frames = [
        {**f, "data": [{"type": kinds[i], **t} for t, i in zip(f["data"], f["traces"])]}
        for f in figure["frames"]
    ]
    made = go.Figure(data=copy.deepcopy(figure["data"]), layout=figure["layout"], frames=frames)
    assert len(made.data) == len(kinds)


def test_axes_are_equal_and_in_metres(figure):
    scene = figure["layout"]["scene"]
    extent = np.array([np.ptp(scene[f"{axis}axis"]["range"]) for axis in "xyz"])
    ratio = np.array([scene["aspectratio"][axis] for axis in "xyz"])
    assert np.allclose(extent / extent.max(), ratio / ratio.max(), atol=1e-3)
    assert [scene[f"{axis}axis"]["title"]["text"] for axis in "xyz"] == ["x (m)", "y (m)", "z (m)"]
    low, high = np.array([scene[f"{axis}axis"]["range"] for axis in "xyz"]).T
    for trace in figure["data"]:
        if trace["type"] == "scatter3d":
            points = points_of(trace)
            points = points[np.isfinite(points).all(axis=1)]
            assert np.all(points >= low - 1e-3) and np.all(points <= high + 1e-3)


# users


def test_one_legend_group_per_user_with_all_its_paths(figure, sim, recorded):
    result = recorded[0]
    for k in range(N_USERS):
        own = [t for t in figure["data"] if t.get("legendgroup") == f"user {k + 1}"]
        assert [t.get("showlegend", True) for t in own] == [True, False, False, False]
        assert len({t["line"]["color"] for t in own}) == 1
        marker, sight, bounces, _ = own
        assert np.allclose(points_of(marker), result.user_positions_m[k], atol=1e-3)
        ends = points_of(sight)[:2]
        assert np.allclose(ends, [sim.observation.bs_position_m, result.user_positions_m[k]], atol=1e-3)
        corners = points_of(bounces).reshape(-1, 4, 3)
        seen = result.scatterer_positions_m[result.visibility_probability[k] >= 0.5]
        assert np.allclose(corners[:, 0], sim.observation.bs_position_m, atol=1e-3)
        assert np.allclose(corners[:, 1], seen, atol=1e-3)
        assert np.allclose(corners[:, 2], result.user_positions_m[k], atol=1e-3)
        assert np.isnan(corners[:, 3]).all()
    groups = {t.get("legendgroup") for t in figure["data"]} - {None, "station"}
    assert len(groups) == N_USERS and figure["layout"]["legend"]["groupclick"] == "togglegroup"


def test_user_colours_tell_apart_and_are_safe(sim, recorded):
    figure = data_of(scene_html(recorded[0]))["figure"]
    colours = [t["marker"]["color"] for t in figure["data"] if t["name"].startswith("user ")]
    assert len(set(colours)) == N_USERS and set(colours) <= set(OKABE_ITO.values())


def test_unlocated_path_is_a_ray_to_its_last_bounce(sim, recorded):
    obs, result = sim.observation, recorded[0]
    place = np.array([50.0, 5.0, 6.0])
    direction, _ = unit_vectors(obs.bs_position_m, place)
    delay = bistatic_delays_s(result.user_positions_m[1:], place[None], obs.bs_position_m)[0]
    cosines = np.stack(obs.array.direction_cosines(direction))[None]
    path = UnlocatedPaths(np.array([1]), cosines, delay, np.array([0.1 + 0j]), np.array([0.875]))
    figure = data_of(
        scene_html(dataclasses.replace(result, unlocated_paths=path), observation=obs),
    )["figure"]
    first, second = [t for t in figure["data"] if t["name"] == "unlocated paths"]
    assert first["x"] == [] and second["legendgroup"] == "user 2"
    assert np.allclose(points_of(second)[:2], [obs.bs_position_m, place], atol=2e-3)
    assert "probability 0.875" in second["hovertext"][1] and "gain -20.0 dB" in second["hovertext"][1]
    counted = scene_html(dataclasses.replace(result, unlocated_paths=path))
    assert "<dt>unlocated paths</dt><dd>1, not drawn</dd>" in counted


def test_boresight_points_where_the_array_looks(figure, sim):
    tail, tip = points_of(next(t for t in figure["data"] if t["name"] == "boresight"))[:2]
    direction, _ = unit_vectors(tail, tip)
    assert np.allclose(direction, sim.observation.array.axes[0], atol=1e-3)


# scatterers


def test_hover_has_the_probabilities_of_the_result(figure, recorded):
    result = recorded[0]
    texts = (
        trace_of(figure, "scatterer, found")["hovertext"] + trace_of(figure, "scatterer, false")["hovertext"]
    )
    assert len(texts) == len(result.scatterer_positions_m)
    for text in texts:
        s = int(re.search(r"scatterer (\d+)", text)[1]) - 1
        assert f"probability {result.scatterer_probability[s]:.3f}" in text
        for k, p in enumerate(result.visibility_probability[:, s]):
            assert f"user {k + 1} {'sees it' if p >= 0.5 else 'does not'}, p = {p:.3f}" in text
        std = np.sqrt(np.diag(result.scatterer_covariance_m2[s]))
        assert "std x {:.3f}, y {:.3f}, z {:.3f} m".format(*std) in text
    assert any("user 1 does not, p = 0.123" in text for text in texts)


def test_many_users_are_listed_only_where_they_see(sim, recorded):
    result = recorded[0]
    repeat = {"visibility_probability": np.repeat(result.visibility_probability, 6, axis=0)}
    for name in ("user_positions_m", "user_position_covariance_m2", "time_offsets_s", "time_offset_std_s"):
        repeat[name] = np.repeat(getattr(result, name), 6, axis=0)
    repeat["line_of_sight_probability"] = np.repeat(result.line_of_sight_probability, 6)
    figure = data_of(scene_html(dataclasses.replace(result, **repeat)))["figure"]
    text = trace_of(figure, "scatterer, estimated")["hovertext"][2]
    assert "does not" not in text
    assert text.count("sees it") == np.count_nonzero(repeat["visibility_probability"][:, 2] >= 0.5)


def test_found_false_and_missed_are_those_of_the_metrics(figure, sim, recorded):
    estimate, truth = recorded[0].scatterer_positions_m, sim.truth.scatterer_positions_m
    match = isac.metrics.localisation(estimate, truth)
    assert match.false_alarms == 1 and match.misses == 1
    false = np.setdiff1d(np.arange(len(estimate)), match.estimate_index)
    missed = np.setdiff1d(np.arange(len(truth)), match.truth_index)
    expected = {
        "scatterer, found": estimate[np.sort(match.estimate_index)],
        "scatterer, false": estimate[false],
        "true scatterer, found": truth[match.truth_index],
        "true scatterer, missed": truth[missed],
    }
    for name, points in expected.items():
        assert np.allclose(points_of(trace_of(figure, name)), points, atol=1e-3)
    assert "<b>scatterer 2, false</b>" in trace_of(figure, "scatterer, false")["hovertext"][0]
    assert (
        f"true scatterer {missed[0] + 1}, missed"
        in trace_of(figure, "true scatterer, missed")["hovertext"][0]
    )
    error = points_of(trace_of(figure, "error")).reshape(-1, 3, 3)
    lengths = np.linalg.norm(error[:, 0] - error[:, 1], axis=1)
    assert np.allclose(lengths, match.distances_m, atol=3e-3)


@pytest.mark.parametrize(("name", "factor"), [(TRUE_SIZE, 1), (ENLARGED, 10)])
def test_ellipsoids_hold_95_percent(figure, recorded, name, factor):
    result, mesh = recorded[0], trace_of(figure, name)
    n_points = len(result.scatterer_positions_m)
    shells = points_of(mesh).reshape(n_points, -1, 3) - result.scatterer_positions_m[:, None]
    for shell, covariance, text in zip(
        shells, result.scatterer_covariance_m2, mesh["hovertext"][:: shells.shape[1]]
    ):
        root = np.linalg.cholesky(covariance)
        squared = np.sum(np.linalg.solve(root, shell.T) ** 2, axis=0) / factor**2
        rounding = 2 * 1e-3 / np.sqrt(np.linalg.eigvalsh(covariance)[0]) / factor * np.sqrt(CHI_SQUARED_95)
        assert np.allclose(squared, CHI_SQUARED_95, atol=rounding + 1e-2)
        assert "probability" in text
    faces = np.column_stack([mesh[key] for key in "ijk"])
    assert faces.min() == 0 and faces.max() == len(mesh["x"]) - 1
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert np.all(np.unique(edges, axis=0, return_counts=True)[1] == 2)  # closed surfaces


def test_exactly_one_size_of_ellipsoids_is_on(figure):
    shown = [trace_of(figure, name).get("visible", True) for name in (TRUE_SIZE, ENLARGED)]
    assert sorted(map(str, shown)) == ["True", "legendonly"]


# the iterations


def test_recorder_keeps_every_iteration(sim):
    recorder = SceneRecorder()
    result = isac.EMTurboBiSVBI(max_iter=4).estimate(sim.observation, callback=recorder)
    assert [s.iteration for s in recorder] == list(range(1, result.n_iter + 1))
    assert [s.objective for s in recorder] == result.history.objective.tolist()
    assert [s.noise_variance for s in recorder] == result.history.noise_variance.tolist()
    last = recorder[-1]
    assert np.array_equal(last.user_positions_m, result.user_positions_m)
    assert last.visibility_probability.shape == (N_USERS, len(last.scatterer_positions_m))
    isac.EMTurboBiSVBI(max_iter=2).estimate(sim.observation, callback=recorder)
    assert len(recorder) == 2


def test_recorder_refuses_another_loop():
    class Other(TurboLoop):
        def setup(self): ...

        def step(self):
            self.objective = self.noise_variance = 0.0

    with pytest.raises(TypeError, match="loop must be the loop of a scene estimator, got Other"):
        Other(1).run(SceneRecorder())


def test_one_frame_per_iteration(page, figure, sim, recorded):
    result, recorder = recorded
    names = [str(i + 1) for i in range(result.n_iter)]
    assert [frame["name"] for frame in figure["frames"]] == names and len(recorder) == result.n_iter
    (slider,) = figure["layout"]["sliders"]
    assert [step["args"][0] for step in slider["steps"]] == [[name] for name in names]
    captions = data_of(page)["captions"]
    assert list(captions) == names
    for snapshot in recorder:
        assert f"noise variance {snapshot.noise_variance:.4g}" in captions[str(snapshot.iteration)]
        assert f"objective {snapshot.objective:.1f}" in captions[str(snapshot.iteration)]


def state_after(figure: dict, frames: list[dict]) -> dict:
    """What is drawn once these frames have been played."""
    data = [dict(trace) for trace in figure["data"]]
    for frame in frames:
        for change, place in zip(frame["data"], frame["traces"]):
            data[place].update(change)
    return {"data": data}


def test_frames_show_the_snapshots_and_end_with_the_result(figure, recorded):
    recorder = recorded[1]
    first = state_after(figure, figure["frames"][:1])
    shown = [points_of(trace_of(first, f"scatterer, {kind}")) for kind in ("found", "false")]
    estimated = recorder[0].scatterer_positions_m[recorder[0].scatterer_probability >= 0.5]
    order = np.argsort(estimated[:, 0])
    together = np.vstack(shown)
    assert np.allclose(together[np.argsort(together[:, 0])], estimated[order], atol=1e-3)
    assert trace_of(first, TRUE_SIZE)["x"] == [] and trace_of(first, "shown iteration")["x"] == [1]
    assert state_after(figure, figure["frames"])["data"] == figure["data"]
    assert not any("visible" in trace for frame in figure["frames"] for trace in frame["data"])


def test_noise_curve(figure, sim, recorded):
    curve = trace_of(figure, "estimated")
    assert curve["y"] == [snapshot.noise_variance for snapshot in recorded[1]]
    assert trace_of(figure, "true")["y"] == [sim.truth.noise_variance] * 2


def test_without_truth_observation_or_recording(sim, recorded):
    result, recorder = recorded
    for truth in (None, sim.truth):
        for observation in (None, sim.observation):
            figure = data_of(scene_html(result, truth, observation=observation))["figure"]
            names = {t["name"] for t in figure["data"]}
            assert ("true scatterer, missed" in names) == (truth is not None)
            assert ("scatterer, estimated" in names) == (truth is None)
            assert ("boresight" in names) == ("user, nominal" in names) == (observation is not None)
            assert "frames" not in figure and "sliders" not in figure["layout"]
    assert "frames" not in data_of(scene_html(result, recording=SceneRecorder()))["figure"]
    played = data_of(scene_html(result, recording=recorder))["figure"]
    assert len(played["frames"]) == len(recorder)


def test_estimators_without_scene_or_iterations(sim):
    recorder = SceneRecorder()
    result = isac.LeastSquares().estimate(sim.observation, callback=recorder)
    assert len(recorder) == 0
    figure = data_of(scene_html(result, sim.truth, observation=sim.observation, recording=recorder))["figure"]
    assert trace_of(figure, "scatterer, found")["x"] == []
    assert len(trace_of(figure, "true scatterer, missed")["x"]) == len(sim.truth.scatterer_positions_m)


# arguments


def test_refuses_what_it_cannot_draw(sim, recorded, tmp_path):
    result, recorder = recorded
    other = isac.Scenario.load("urban_uplink").replace(**{**SMALL, "n_users": 3}).simulate(0)
    nan = dataclasses.replace(result, user_positions_m=np.full((N_USERS, 3), np.nan))
    shifted = SceneRecorder([dataclasses.replace(s, objective=s.objective + 1) for s in recorder])
    cases = [
        (TypeError, "result must be an EstimationResult, got dict", ({},), {}),
        (TypeError, "truth must be of type Truth, got Simulation", (result, sim), {}),
        (TypeError, "observation must be of type UplinkObservation", (result,), {"observation": sim}),
        (TypeError, "recording must be of type SceneRecorder", (result,), {"recording": [1]}),
        (TypeError, "title must be of type str", (result,), {"title": 3}),
        (TypeError, "path must be a path", (result,), {"path": 3}),
        (ValueError, "path must end in one of .html, .htm", (result,), {"path": tmp_path / "a.png"}),
        (FileNotFoundError, "there is no folder", (result,), {"path": tmp_path / "no" / "a.html"}),
        (ValueError, "truth must have the 2 users of result, got 3", (result, other.truth), {}),
        (ValueError, "observation must have the 2 users", (result,), {"observation": other.observation}),
        (ValueError, "result.user_positions_m must be finite", (nan,), {}),
        (ValueError, "recording must be of the run that gave result", (result,), {"recording": shifted}),
    ]
    for kind, message, positional, named in cases:
        with pytest.raises(kind, match=message):
            scene_html(*positional, **named)
    assert not list(tmp_path.iterdir())


def test_writes_what_it_returns(recorded, tmp_path):
    target = tmp_path / "scene.HTML"
    page = scene_html(recorded[0], path=target)
    assert target.read_text(encoding="utf-8") == page


def test_missing_plotly_says_how_to_get_it(recorded, monkeypatch, tmp_path):
    for module in ("html", "html.page"):
        monkeypatch.setattr(f"isac_toolbox.plotting.{module}.has_plotly", lambda: False)
    with pytest.raises(ImportError, match=r'pip install "isac_toolbox\[html\]"'):
        scene_html(recorded[0])
    assert 'pip install "isac_toolbox[html]"' in fails("--html", tmp_path / "a.html")


def test_plotly_is_not_loaded_before_it_is_needed():
    code = (
        "import sys, isac_toolbox, isac_toolbox.plotting as p, isac_toolbox.estimators\n"
        "assert 'plotly' not in sys.modules\n"
        "assert 'scene_html' in p.__all__ and callable(p.scene_html) and 'plotly' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# command line


def fails(*words) -> str:
    """An estimation that must be refused before it starts, with exit code 2; gives the message."""
    outcome = CliRunner().invoke(cli.app, [*ESTIMATE, *map(str, words)])
    assert outcome.exit_code == 2 and outcome.stdout == "", outcome.output
    return outcome.stderr


def test_command_writes_the_page_with_its_iterations(tmp_path):
    target = tmp_path / "scene.html"
    outcome = CliRunner().invoke(
        cli.app, [*ESTIMATE, "--seed", "0", "--max-iter", "3", "--html", str(target)]
    )
    assert outcome.exit_code == 0 and f"wrote {target}" in outcome.stdout, outcome.output
    page = target.read_text(encoding="utf-8")
    assert "<h1>urban_uplink, seed 0, SNR 10 dB<small>EM-Turbo-BiSVBI, " in page
    assert len(data_of(page)["figure"]["frames"]) == 3


def test_command_checks_the_page_before_the_estimation(tmp_path, monkeypatch):
    monkeypatch.setattr("isac_toolbox.cli.estimate._run_estimator", lambda *a, **k: pytest.fail("was run"))
    assert "--html: " in fails("--html", tmp_path / "a.png")
    assert "must end in one of .html, .htm" in fails("--html", tmp_path / "a.png")
    assert "there is no folder" in fails("--html", tmp_path / "no" / "a.html")
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in fails("--html", tmp_path / "folder.html")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write" in fails("--html", tmp_path / "a.html")


# a real browser

# With user 1 switched off and the scene turned, plays every iteration; then says what the page is like.
PLAY = """(async function () {
  const gd = document.getElementById("scene"), now = {mode: "immediate", frame: {duration: 0}};
  const own = gd.data.flatMap(function (t, i) { return t.legendgroup === "user 1" ? [i] : []; });
  const entries = gd.querySelectorAll("g.legend g.traces").length;
  await Plotly.restyle(gd, {visible: "legendonly"}, own);
  await Plotly.relayout(gd, {"scene.camera.eye": {x: 2, y: 0.5, z: 1}});
  const captions = [];
  for (const frame of gd._transitionData._frames) {
    await Plotly.animate(gd, [frame.name], now);
    captions.push(document.getElementById("caption").textContent);
  }
  const picture = new Image();
  picture.src = await Plotly.toImage(gd, {width: 600, height: 400});
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: 600, height: 400});
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  return {
    captions, entries, user: gd.data[own[0]].visible, eye: gd._fullLayout.scene.camera.eye,
    active: gd._fullLayout.sliders[0].active, canvases: gd.querySelectorAll("canvas").length,
    colours: Array.from(new Set(new Uint32Array(pen.getImageData(0, 0, 600, 400).data.buffer))),
    loaded: performance.getEntriesByType("resource").map(function (entry) { return entry.name; }),
  };
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to draw the page with")
def test_browser_draws_and_plays_the_page(page, figure, recorded, tmp_path):
    target = tmp_path / "scene.html"
    target.write_text(page, encoding="utf-8")
    with Browser(target) as browser:
        browser.wait_until("document.documentElement.dataset.state === 'drawn'")
        played = browser.evaluate(PLAY)
        assert browser.evaluate("document.documentElement.dataset.error ?? null") is None
    assert played["captions"] == list(data_of(page)["captions"].values())
    assert played["user"] == "legendonly" and played["eye"] == {"x": 2, "y": 0.5, "z": 1}
    assert played["active"] == len(recorded[1]) - 1
    in_legend = [t for t in figure["data"] if t.get("showlegend", True) and len(t["x"])]
    assert played["entries"] == len(in_legend) and played["canvases"] > 0
    assert [name for name in played["loaded"] if not name.startswith(("data:", "blob:"))] == []
    drawn = {f"#{p & 255:02X}{p >> 8 & 255:02X}{p >> 16 & 255:02X}" for p in played["colours"]}
    assert OKABE_ITO["orange"] in drawn and OKABE_ITO["blue"] not in drawn  # user 2 on, user 1 off
