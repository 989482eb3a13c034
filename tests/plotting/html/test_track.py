"""The page of a tracked scene."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import isac_toolbox as isac

pytest.importorskip("plotly")

SMALL = isac.Scenario.load("moving_uplink").replace(
    n_users=2, n_scatterers=2, n_subcarriers=24, subcarrier_spacing_hz=3e6, array_shape=(4, 4)
)


@pytest.fixture(scope="module")
def run():
    blocks = SMALL.simulate_track(n_blocks=3, interval_s=0.05, seed=0)
    tracker = isac.Tracker(isac.EMTurboBiSVBI())
    return blocks, [tracker.update(block.observation) for block in blocks]


def data_of(page: str):
    return json.loads(re.search(r'id="page-data">(.*?)</script>', page, re.S)[1])


def test_every_block_is_a_frame_that_shows_its_own_places(run):
    blocks, track = run
    truths = [block.truth for block in blocks]
    found = data_of(isac.plotting.track_html(track, truths, observation=blocks[0].observation))
    figure = found["figure"]
    assert [frame["name"] for frame in figure["frames"]] == ["1", "2", "3"] == list(found["captions"])
    names = [trace["name"] for trace in figure["data"]]
    for block, frame in zip(track, figure["frames"], strict=True):
        shown = dict(zip((names[i] for i in frame["traces"]), frame["data"], strict=True))
        for k, place in enumerate(block.user_positions_m):
            assert [shown[f"user {k + 1}"]["x"][0], shown[f"user {k + 1}"]["y"][0]] == pytest.approx(
                place[:2], abs=1e-3
            )
    last = {trace["name"]: trace for trace in figure["data"]}
    tracks = last["track"]
    assert tracks["text"] == [str(number) for number in track[-1].track_ids]
    np.testing.assert_allclose(tracks["z"], track[-1].scatterer_positions_m[:, 2], atol=1e-3)
    way = [trace for trace in figure["data"] if trace["name"] == "way"]
    assert all(sum(x is not None for x in trace["x"]) == 3 for trace in way)
    # an ellipsoid reaches as far as its covariance says
    mesh, n_tracks = last["95 % ellipsoid, true size"], len(track[-1].track_ids)
    height = np.reshape(mesh["z"], (n_tracks, -1))
    deviation = np.sqrt(track[-1].scatterer_covariance_m2[:, 2, 2])
    assert np.all(np.ptp(height, axis=1) <= 2 * 2.7955 * deviation + 2e-3)
    assert np.all(np.ptp(height, axis=1) >= 1.5 * 2.7955 * deviation - 2e-3)
    assert [step["label"] for step in figure["layout"]["sliders"][0]["steps"]] == ["1", "2", "3"]


def test_one_block_without_truth_is_written(run, tmp_path):
    page = isac.plotting.track_html(run[1][:1], path=tmp_path / "track.html", title="a < b")
    assert (tmp_path / "track.html").read_text(encoding="utf-8") == page
    assert "a &lt; b" in page and "scatterer, true" not in page


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"track": []}, ValueError, "track must have at least one block"),
        ({"track": "abc"}, TypeError, "track must be a sequence of TrackedResult, got str"),
        ({"track": [3]}, TypeError, r"track\[0\] must be a TrackedResult, got int"),
        ({"truths": []}, ValueError, "truths must be of the 3 blocks of track, got 0"),
        ({"observation": 1}, TypeError, "observation must be of type UplinkObservation, got int"),
        ({"title": 1}, TypeError, "title must be of type str, got int"),
        ({"path": "track.txt"}, ValueError, "path must end in"),
    ],
)
def test_what_does_not_fit_is_refused(run, change, error, message):
    given = {"track": run[1], **change}
    with pytest.raises(error, match=message):
        isac.plotting.track_html(given.pop("track"), **given)
