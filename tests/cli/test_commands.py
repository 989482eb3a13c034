"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.cli import fails, run, strict_json
from isac_toolbox.cli import report as _report
from isac_toolbox.cli import tables as _tables
from isac_toolbox.cli.outputs import make_console

SMALL = {"n_subcarriers": 32, "n_scatterers": 4, "array_shape": "[6, 6]", "n_users": 2, "n_data_symbols": 4}
SMALL_OPTIONS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
ESTIMATE = ["estimate", "urban_uplink", *SMALL_OPTIONS]


@pytest.fixture(scope="module")
def simulation():
    changes = {**SMALL, "array_shape": (6, 6)}
    return isac.Scenario.load("urban_uplink").replace(**changes).simulate(0)


@pytest.fixture(scope="module")
def result(simulation):
    return isac.EMTurboBiSVBI(max_iter=8).estimate(simulation.observation)


@pytest.fixture
def stub(monkeypatch, result):
    """Replace the estimator by one that returns (or raises) at once; gives a function to set that."""
    answer = [result]

    @dataclasses.dataclass(frozen=True)
    class Stub:
        coarse: str = "nomp"
        rule: str = "extrinsic"
        m_step: str = "gauss_newton"
        max_iter: int = 30

        def estimate(self, obs, *, callback=None):
            if isinstance(answer[0], BaseException):
                raise answer[0]
            return answer[0]

    monkeypatch.setattr("isac_toolbox.estimators.EMTurboBiSVBI", Stub)

    def returns(value):
        answer[0] = value

    return returns


@pytest.fixture
def saved(tmp_path, simulation):
    return simulation.observation.save(tmp_path / "block.npz")


# the real thing


def test_estimate_prints_every_part_within_eighty_columns(tmp_path):
    outcome = run(*ESTIMATE, "--save", tmp_path / "res", "--plot", tmp_path / "scene.png")
    text = outcome.stdout
    for part in (
        "urban_uplink, seed 0: 2 users, 6 x 6 antennas, 32 subcarriers",
        "EM-Turbo-BiSVBI: converged",
        "Scatterers",
        "seen by user 1, 2, ...",
        "User positions",
        "Clocks and data",
        "Summary",
        "channel NMSE",
        "unlocated energy",
    ):
        assert part in text
    tables = [line for line in text.splitlines() if not line.startswith("wrote")]
    assert max(map(len, tables)) <= 80
    assert f"wrote {tmp_path / 'res.npz'}" in text
    loaded = isac.EstimationResult.load(tmp_path / "res.npz")
    assert loaded.status == "converged"
    assert (tmp_path / "scene.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_the_numbers_of_the_metrics():
    outcome = run(*ESTIMATE, "--json", "--max-iter", "8", "--rule", "extrinsic")
    assert outcome.stderr == ""
    report = strict_json(outcome.stdout)
    scenario = isac.Scenario.load("urban_uplink").replace(**{**SMALL, "array_shape": (6, 6)})
    sim = scenario.simulate(0)
    result = isac.EMTurboBiSVBI(max_iter=8).estimate(sim.observation)
    bound = isac.bounds.hybrid_crb(sim)
    summary = report["summary"]
    assert summary["channel_nmse_db"] == pytest.approx(
        isac.metrics.channel_nmse_db(result.channel, sim.truth.channel), abs=1e-6
    )
    assert summary["channel_bound_db"] == pytest.approx(bound.channel_nmse_db)
    match = isac.metrics.localisation(result.scatterer_positions_m, sim.truth.scatterer_positions_m)
    assert (summary["hits"], summary["misses"], summary["false_alarms"]) == (
        match.hits,
        match.misses,
        match.false_alarms,
    )
    assert summary["position_rmse_m"] == pytest.approx(match.rmse_m, abs=1e-6)
    assert summary["symbol_error_rate"] == isac.metrics.symbol_error_rate(result, sim)
    assert report["estimator"]["settings"] == {"rule": "extrinsic", "max_iter": 8}
    assert report["estimator"]["n_iter"] == result.n_iter
    assert report["n_users"] == len(report["users"]) == 2
    for k, user in enumerate(report["users"]):
        expected = np.linalg.norm(result.user_positions_m[k] - sim.truth.user_positions_m[k])
        assert user["position_error_m"] == pytest.approx(expected, abs=1e-6)
        assert user["time_offset_bound_s"] == pytest.approx(bound.time_offset_rmse_s[k])
    assert [s["error_m"] for s in report["scatterers"] if s["truth_index"] is not None] == pytest.approx(
        match.distances_m.tolist(), abs=1e-6
    )


def test_warnings_and_ambiguities_are_printed_and_in_json(tmp_path, simulation):
    period_s = 1 / np.diff(simulation.observation.subcarrier_frequencies_hz)[0]
    vague = dataclasses.replace(
        simulation.observation,
        time_offset_std_s=0.6 * period_s,
        noise_variance=simulation.truth.noise_variance * 50,
    )
    path = vague.save(tmp_path / "vague.npz")
    outcome = run("estimate", path)
    assert "Ambiguous (weights in brackets)" in outcome.stdout and "clock of user 1:" in outcome.stdout
    assert "Warnings" in outcome.stdout and "noise_variance: the samples hold noise" in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines())) <= 80
    report = strict_json(run("estimate", path, "--json").stdout)
    assert report["estimator"]["status"] == "ambiguous"
    assert [text.split(":")[0] for text in report["warnings"]] == ["noise_variance"]
    clocks = [entry for entry in report["ambiguities"] if entry["kind"] == "clock"]
    assert clocks and all(abs(sum(entry["weights"]) - 1) < 1e-9 for entry in clocks)
    assert clocks[0]["text"].startswith(f"clock of user {clocks[0]['index'] + 1}:")


def test_what_does_not_fit_is_printed_and_in_json(tmp_path, simulation):
    turns = np.exp(0.05j * np.arange(simulation.observation.n_symbols))
    turned = dataclasses.replace(simulation.observation, received=simulation.observation.received * turns)
    path = turned.save(tmp_path / "turned.npz")
    printed = run("estimate", path).stdout
    assert "does not fit over time (" in printed and "give symbol_times_s" in printed
    assert "What is left, against noise" in printed and "rotation" in printed
    assert max(map(len, printed.splitlines())) <= 80
    misfit = strict_json(run("estimate", path, "--json").stdout)["misfit"]
    assert misfit["text"].startswith("does not fit over time (") and "\n" not in misfit["text"]
    assert list(misfit["axes"]) == ["delay", "direction", "time", "element"]
    assert misfit["axes"]["time"]["part"] == "rotation" and misfit["axes"]["time"]["fails"]
    assert misfit["axes"]["time"]["excess_db"] > 10 and misfit["axes"]["time"]["p_value"] < 1e-9
    clean = strict_json(run("estimate", "urban_uplink", "--json").stdout)["misfit"]
    assert clean["text"] is None and not any(axis["fails"] for axis in clean["axes"].values())
    plain = strict_json(run("estimate", "urban_uplink", "--estimator", "ls", "--json").stdout)
    assert plain["misfit"] is None


def test_simulate_then_estimate_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run("simulate", "urban_uplink", "--seed", "3", *SMALL_OPTIONS, "--snr-db", "5")
    assert "wrote urban_uplink_seed3.npz: 2 users" in outcome.stdout and "SNR 5 dB" in outcome.stdout
    command = outcome.stdout.strip().splitlines()[-1].partition("isac ")[2]
    assert command == "estimate urban_uplink_seed3.npz"
    scenario = isac.Scenario.load("urban_uplink").replace(**{**SMALL, "array_shape": (6, 6), "snr_db": 5})
    observation = isac.UplinkObservation.load("urban_uplink_seed3.npz")
    assert np.array_equal(observation.received, scenario.simulate(3).observation.received)
    text = run(*command.split(), "--plot", "scene.svg").stdout
    assert "scatterers" in text and "missed" not in text and "bound" not in text and "bit error" not in text
    assert Path("scene.svg").read_text().startswith("<?xml")
    report = strict_json(run(*command.split(), "--json").stdout)
    assert report["seed"] is None and report["snr_db"] is None
    assert "channel_nmse_db" not in report["summary"] and "truth_index" not in report["scatterers"][0]
    assert report["summary"]["snr_db"] == pytest.approx(5, abs=0.5)


def test_simulate_writes_what_moves(tmp_path):
    changes = ("--set", "user_speed_m_s=[1.0, 2.0]", "--set", "array_shape=[2, 2]")
    run("simulate", "moving_uplink", *changes, "-o", str(tmp_path / "block.npz"))
    motion = isac.UplinkObservation.load(tmp_path / "block.npz").motion
    assert motion.user_velocity_stds_m_s[0] == pytest.approx([np.sqrt(7 / 6), np.sqrt(7 / 6), 0])
    assert motion.frequency_offset_stds_hz.tolist() == [200.0] * 3 and motion.times_s.shape == (14,)


def test_simulate_adds_the_suffix_and_quotes_the_path(tmp_path):
    outcome = run("simulate", "urban_uplink", *SMALL_OPTIONS, "-o", tmp_path / "my block")
    assert (tmp_path / "my block.npz").is_file()
    assert f"isac estimate '{tmp_path / 'my block.npz'}'" in outcome.stdout


def test_scenario_from_a_toml_file(tmp_path):
    path = (
        isac.Scenario.load("urban_uplink").replace(n_users=2, n_pilot_symbols=2).dump(tmp_path / "own.toml")
    )
    assert strict_json(run("bound", path, "--json").stdout)["n_users"] == 2


def test_bound_of_everything():
    sim = isac.Scenario.load("urban_uplink").replace(snr_db=0).simulate(2)
    report = strict_json(run("bound", "urban_uplink", "--seed", "2", "--snr-db", "0", "--json").stdout)
    expected = isac.bounds.hybrid_crb(sim)
    assert [s["bound_m"] for s in report["scatterers"]] == pytest.approx(expected.position_rmse_m.tolist())
    assert [u["position_bound_m"] for u in report["users"]] == pytest.approx(
        expected.user_position_rmse_m.tolist()
    )
    assert [u["time_offset_bound_s"] for u in report["users"]] == pytest.approx(
        expected.time_offset_rmse_s.tolist()
    )
    assert report["summary"]["channel_bound_db"] == pytest.approx(expected.channel_nmse_db)
    pilots = strict_json(
        run("bound", "urban_uplink", "--seed", "2", "--snr-db", "0", "--pilots-only", "--json").stdout
    )
    assert pilots["summary"]["channel_bound_db"] > report["summary"]["channel_bound_db"]
    text = run("bound", "traced_munich", "--pilots-only").stdout
    assert "only the pilots known" in text and "more than one bounce" in text
    assert max(map(len, text.splitlines())) <= 80


def test_bounds_of_blocks_with_clutter_say_what_they_leave_out():
    text = run("bound", "diffuse_uplink").stdout
    assert "of the power is in rays or a diffuse tail, which the bound takes as known" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "diffuse tail" not in run("bound", "urban_uplink").stdout
    report = strict_json(run("bound", "urban_uplink", "--set", "cdl=CDL-D", "--json").stdout)
    assert 0.05 < report["summary"]["unlisted_share"] < 0.25
    message = fails("bound", "urban_uplink", "--set", "cdl=CDL-A")
    assert "must have a line of sight, a scatterer or an unlocated path" in message and "CDL-A" in message


def test_info_lists_versions_and_scenarios():
    text = run("info").stdout
    for word in ("isac_toolbox", "python", "numpy", "scipy", "numba", "BLAS", "threads"):
        assert re.search(rf"^{word} +\S", text, re.MULTILINE)
    for name in isac.scenario_names():
        assert isac.Scenario.load(name).description in text and name in text


def test_version_help_and_no_command():
    assert run("--version").stdout == f"isac_toolbox {isac.__version__}\n"
    for words in ([], ["--help"], ["estimate", "--help"]):
        assert "Usage: isac" in run(*words).stdout.replace("root", "isac")


# ways to fail


def test_unknown_scenario_lists_the_known():
    for command in ("simulate", "estimate", "bound"):
        message = fails(command, "atlantis")
        assert "atlantis" in message and "urban_uplink" in message and "traced_munich" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("n_userz=4", "unknown key 'n_userz'; known are"),
        ("n_users=many", "n_users: Input should be a valid integer"),
        ("n_users=0", "n_users"),
        ("n_users", "--set takes FIELD=VALUE"),
        ("=4", "--set takes FIELD=VALUE"),
        ("n_users=", "--set takes FIELD=VALUE"),
        ("modulation=bpsk", "modulation"),
        ("n_pilot_symbols=2", "use pilot_pattern 'comb' or 'random'"),
        ("snr_db=inf", "finite"),
        ("traced=nowhere", "no such traced environment"),
        ("n_scatterers=5000", "cannot hold"),
    ],
)
def test_bad_set(change, expected):
    message = fails("bound", "urban_uplink", "--set", change)
    assert expected in message


def test_set_takes_toml_values_and_plain_strings():
    report = strict_json(
        run(
            *("bound", "urban_uplink", "--set", "modulation=16qam", "--set", "array_shape=[4, 4]"),
            *("--set", "power_control = false", "--set", 'pilot_pattern="comb"', "--json"),
        ).stdout
    )
    assert report["constellation_points"] == 16 and report["array_shape"] == [4, 4]


def test_snr_given_twice():
    assert "--snr-db" in fails("bound", "urban_uplink", "--snr-db", "3", "--set", "snr_db=4")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["estimate", "urban_uplink", "--estimator", "oracle"], "bisvbi"),
        (["estimate", "urban_uplink", "--rule", "golden"], "mean_field"),
        (["estimate", "urban_uplink", "--max-iter", "0"], "--max-iter"),
        (["estimate", "urban_uplink", "--max-seconds", "-1"], "--max-seconds"),
        (["estimate", "urban_uplink", "--max-seconds", "soon"], "--max-seconds"),
        (["bound", "urban_uplink", "--seed", "-1"], "--seed"),
        (["bound", "urban_uplink", "--snr-db", "loud"], "--snr-db"),
        (["estimate"], "SCENARIO"),
        (["divine"], "divine"),
        (["--frobnicate"], "--frobnicate"),
        (["bound", "urban_uplink", "--frobnicate"], "--frobnicate"),
    ],
)
def test_bad_usage(words, expected):
    message = fails(*words)
    assert expected in message and "--help" in message


def test_a_time_limit_is_no_failure():
    report = strict_json(run(*ESTIMATE, "--json", "--max-seconds", "1e-6").stdout)
    assert report["estimator"]["settings"] == {"max_seconds": 1e-6}
    assert report["estimator"]["status"] == "time limit"
    assert "max_seconds must be a positive number" in fails(*ESTIMATE, "--max-seconds", "0")
    assert "--max-seconds does not fit" in fails(*ESTIMATE, "--max-seconds", "1", "--estimator", "nomp")


def test_unreadable_files(tmp_path, saved):
    assert "no such file" in fails("estimate", tmp_path / "none.npz")
    assert "no such scenario file" in fails("estimate", tmp_path / "none.toml")
    (tmp_path / "text.npz").write_text("hello")
    assert "not an npz file" in fails("estimate", tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=1)
    assert "misses the key(s) received" in fails("estimate", tmp_path / "other.npz")
    (tmp_path / "bad.toml").write_text("n_users = = 3")
    assert "not valid TOML" in fails("bound", tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "binary.toml" in fails("bound", tmp_path / "binary.toml")
    assert "is an observation" in fails("bound", saved)
    assert "is an observation" in fails("simulate", saved)


def test_options_that_would_change_a_file(saved):
    assert "--seed, --snr-db, --set" in fails(
        "estimate", saved, "--seed", "1", "--snr-db", "3", "--set", "n_users=2"
    )


def test_genie_needs_the_truth(saved):
    assert "needs the truth" in fails("estimate", saved, "--estimator", "genie")


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("nomp", ["--rule", "extrinsic"]),
        ("nomp", ["--m-step", "gradient"]),
        ("ls", ["--coarse", "nomp"]),
        ("genie", ["--rule", "extrinsic"]),
    ],
)
def test_option_that_does_not_fit_the_estimator(estimator, options):
    message = fails("estimate", "urban_uplink", "--estimator", estimator, *options)
    assert f"{options[0]} does not fit --estimator {estimator}" in message


@pytest.mark.parametrize("estimator", ["music-scvbi", "nomp", "ls"])
def test_every_estimator_reports(estimator):
    report = strict_json(run(*ESTIMATE, "--estimator", estimator, "--json").stdout)
    assert report["summary"]["channel_nmse_db"] < -5
    assert not report["summary"]["channel_exact"]
    assert "Summary" in run(*ESTIMATE, "--estimator", estimator).stdout


def test_genie_is_exact():
    summary = strict_json(run(*ESTIMATE, "--estimator", "genie", "--json").stdout)["summary"]
    assert summary["channel_exact"] and summary["channel_nmse_db"] is None
    assert summary["misses"] == summary["false_alarms"] == summary["position_rmse_m"] == 0
    assert re.search("channel NMSE +exact", run(*ESTIMATE, "--estimator", "genie").stdout)


def test_outputs_are_checked_before_the_estimation(tmp_path, stub):
    stub(AssertionError("must not be reached"))
    assert "must end in one of .png, .pdf, .svg" in fails(*ESTIMATE, "--plot", tmp_path / "a.gif")
    assert "there is no folder" in fails(*ESTIMATE, "--plot", tmp_path / "no" / "a.png")
    assert "there is no folder" in fails(*ESTIMATE, "--save", tmp_path / "no" / "a.npz")
    assert "there is no folder" in fails("simulate", "urban_uplink", "-o", tmp_path / "no" / "a.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "is a folder" in fails(*ESTIMATE, "--save", tmp_path / "folder")


def test_folder_without_permission(tmp_path, monkeypatch, stub):
    stub(AssertionError("must not be reached"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write" in fails(*ESTIMATE, "--save", tmp_path / "a.npz")


def test_numerical_failure_reports_and_ends_with_one(stub, result):
    stub(dataclasses.replace(result, status="numerical failure", converged=False))
    outcome = run(*ESTIMATE, code=1)
    assert "Summary" in outcome.stdout
    assert outcome.stderr.startswith("error: the estimation failed (numerical failure")
    assert strict_json(run(*ESTIMATE, "--json", code=1).stdout)["estimator"]["status"] == "numerical failure"
    stub(np.linalg.LinAlgError("singular matrix"))
    assert "the estimation failed: singular matrix" in fails(*ESTIMATE, code=1)


def test_numbers_that_are_not_finite_become_null(stub, result):
    broken = dataclasses.replace(
        result,
        channel=np.full_like(result.channel, np.nan),
        scatterer_positions_m=np.full_like(result.scatterer_positions_m, np.inf),
        noise_variance=math.nan,
        status="numerical failure",
    )
    stub(broken)
    report = strict_json(run(*ESTIMATE, "--json", code=1).stdout)
    assert report["summary"]["channel_nmse_db"] is None and report["summary"]["hits"] is None
    assert report["scatterers"][0]["position_m"] == [None] * 3
    assert "Summary" in run(*ESTIMATE, code=1).stdout


def test_refused_observation_is_bad_input(stub):
    stub(ValueError("pilots: no usable pilots for user 1"))
    assert "no usable pilots" in fails(*ESTIMATE)


def test_interrupt_ends_with_130(stub):
    stub(KeyboardInterrupt())
    outcome = run(*ESTIMATE, code=130)
    assert outcome.stderr == "interrupted\n" and outcome.stdout == ""


def test_a_mistake_in_the_program_keeps_its_traceback(stub):
    stub(TypeError("a mistake"))
    with pytest.raises(TypeError, match="a mistake"):
        run(*ESTIMATE)


# tables


def altered(simulation, result):
    """A result with one scatterer moved far away: one miss and one false alarm."""
    positions = result.scatterer_positions_m.copy()
    positions[0] += 10
    return _report.Run(
        "urban_uplink",
        0,
        simulation.observation,
        dataclasses.replace(result, scatterer_positions_m=positions),
        1.0,
        simulation,
        isac.bounds.hybrid_crb(simulation),
        10.0,
    )


def test_misses_and_false_alarms_are_marked(simulation, result):
    report = _report.estimation_report(altered(simulation, result))
    assert len(report["missed_scatterers"]) == 1 and report["scatterers"][0]["truth_index"] is None
    console = make_console()
    with console.capture() as capture:
        _tables.print_estimation(console, report)
    text = capture.get()
    assert re.search(r"^ ?1 .* false +-$", text, re.MULTILINE)
    assert re.search(r"^ ?- .* missed +\d", text, re.MULTILINE)
    assert "1 missed, 1 false" in text


def test_energy_outside_the_located_scene(simulation, result):
    truth, obs = simulation.truth, simulation.observation
    exact = dataclasses.replace(
        result,
        scatterer_positions_m=truth.scatterer_positions_m,
        visibility_probability=truth.visibility.astype(float),
        line_of_sight_probability=np.ones(2),
        user_positions_m=truth.user_positions_m,
        time_offsets_s=truth.time_offsets_s,
    )
    assert _report.unlocated_energy_share(truth.channel, exact, obs) < 1e-9
    blind = dataclasses.replace(exact, visibility_probability=np.zeros_like(exact.visibility_probability))
    only_sight = _report.unlocated_energy_share(truth.channel, blind, obs)
    assert 0.01 < only_sight < 0.9
    nothing = dataclasses.replace(blind, line_of_sight_probability=np.zeros(2))
    assert _report.unlocated_energy_share(truth.channel, nothing, obs) == 1
    assert _report.unlocated_energy_share(0 * truth.channel, exact, obs) is None


def test_plain_makes_strict_json():
    value = {"a": np.array([1.0, np.nan]), "b": np.float64(np.inf), "c": (np.int64(1), np.bool_(True))}
    assert _report.plain(value) == {"a": [1.0, None], "b": None, "c": [1, True]}


# separate processes


def isac_process(*words: str, **environment: str) -> subprocess.CompletedProcess:
    code = "from isac_toolbox.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_help_stays_light():
    code = (
        "import sys, isac_toolbox.cli as cli\n"
        "try:\n    cli.app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numba', 'matplotlib', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy & {'numba', 'matplotlib', 'scipy'}, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_terminal_without_unicode(simulation):
    isac.bounds.hybrid_crb(simulation)  # compiles, so that nothing is said of that
    done = isac_process("bound", "urban_uplink", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and done.stderr == b""
    text = done.stdout.decode("ascii")
    assert "x seen  . not seen" in text


def test_exit_codes_of_the_process():
    done = isac_process("bound", "atlantis")
    assert done.returncode == 2 and done.stdout == b"" and done.stderr.startswith(b"error: unknown scenario")


def test_progress_only_on_a_terminal(tmp_path, saved):
    main, secondary = pty.openpty()
    code = "from isac_toolbox.cli import main; main()"
    words = [sys.executable, "-c", code, "estimate", str(saved), "--max-iter", "3"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=secondary, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    stdout, _ = process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == 0 and b"Summary" in stdout
    assert b"iteration" in shown and b"paths" in shown and b"iteration" not in stdout.split(b"\n\n")[1]
    assert run("estimate", saved, "--max-iter", "2").stderr == ""


def test_a_block_without_places_gives_paths_and_nothing_to_draw(tmp_path):
    observation = isac.Scenario.load("urban_uplink").replace(n_subcarriers=32).simulate(0).observation
    places = ("bs_position_m", "user_positions_m", "user_position_std_m", "time_offset_std_s", "region_m")
    path = dataclasses.replace(observation, **dict.fromkeys(places)).save(tmp_path / "free.npz")
    result = isac.EMTurboBiSVBI().estimate(isac.UplinkObservation.load(path))
    shown = run("estimate", path).stdout
    assert "Paths" in shown and "delay" in shown and "User positions" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    report = strict_json(run("estimate", path, "--json").stdout)
    delays = sorted(entry["delay_s"] for entry in report["paths"])
    assert delays == pytest.approx(np.sort(result.unlocated_paths.delay_s))
    assert report["users"][0]["position_m"] is None and report["scatterers"] == []
    assert "nothing to draw" in fails("estimate", path, "--plot", tmp_path / "a.png")
    if importlib.util.find_spec("plotly") is not None:  # the extra "html"
        assert "nothing to draw" in fails("estimate", path, "--html", tmp_path / "a.html")
    assert "OMP needs places" in fails("estimate", path, "--estimator", "omp")


def test_the_share_of_a_diffuse_part_is_shown_where_there_is_one(result, stub):
    assert "diffuse energy" not in run(*ESTIMATE).stdout
    power = 0.1 * np.mean(np.abs(result.channel) ** 2, axis=(1, 2))
    stub(dataclasses.replace(result, diffuse_power=power))
    line = next(x for x in run(*ESTIMATE).stdout.splitlines() if "diffuse energy" in x)
    assert "10 %" in line
    report = strict_json(run(*ESTIMATE, "--json").stdout)
    assert report["summary"]["diffuse_energy_share"] == pytest.approx(0.1)


def test_motion_and_elements_are_shown_where_they_are_estimated(result, stub):
    quiet = run(*ESTIMATE).stdout
    assert "Carriers and motion" not in quiet and "elements differ" not in quiet
    n_users, n_points = len(result.channel), len(result.scatterer_positions_m)
    moving = np.where(np.arange(n_points) == 1, 0.9, 0.1)
    turned = dataclasses.replace(
        result,
        frequency_offsets_hz=np.full(n_users, -123.4),
        frequency_offset_std_hz=np.full(n_users, 5.0),
        user_velocities_m_s=np.tile([12.3, -4.5, 0.0], (n_users, 1)),
        user_velocity_covariance_m2_s2=np.tile(np.diag([0.36, 0.64, 0.0]), (n_users, 1, 1)),
        moving_probability=moving,
        scatterer_velocities_m_s=np.tile([6.7, 0.0, 0.0], (n_points, 1)),
        scatterer_velocity_covariance_m2_s2=np.tile(np.eye(3), (n_points, 1, 1)),
        element_response=np.tile([10 ** (1 / 20), 10 ** (-1 / 20)], 32).astype(complex),
        element_response_std=np.full(64, 0.01),
    )
    stub(turned)
    shown = run(*ESTIMATE).stdout
    assert max(map(len, shown.splitlines())) <= 80
    users = next(x for x in shown.splitlines() if "-123.4" in x)
    assert "12.30" in users and "-4.50" in users and "1.00" in users
    movers = shown[shown.index("Scatterers that move") :].splitlines()
    assert "0.90" in "".join(movers) and sum("6.70" in x for x in movers) == 1
    assert "1 dB, 0 degrees rms" in shown
    report = strict_json(run(*ESTIMATE, "--json").stdout)
    assert report["motion"]["users"][0]["velocity_std_m_s"] == pytest.approx(1.0)
    assert report["motion"]["scatterers"][1]["moving_probability"] == 0.9
    assert report["elements"]["gain_db"][:2] == pytest.approx([1.0, -1.0])
