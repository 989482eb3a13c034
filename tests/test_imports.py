"""Every module can be imported, with no more and nothing newer installed than pyproject.toml says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec

import pytest

from helpers import ROOT
from helpers.import_graph import PACKAGE

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
NETWORKS = [name for name in MODULES if f"{name}.".startswith("isac_toolbox.nn.")]
SIONNA = ["isac_toolbox.interop.sionna"]
OTHERS = [name for name in MODULES if name not in NETWORKS + SIONNA]
EXTRAS = (
    "torch",
    "sionna",
    "csiread",
    "safetensors",
    "sklearn",
    "torch_pruning",
    "plotly",
    "dask",
    "distributed",
    "pandas",
)


@pytest.mark.parametrize("name", MODULES)
def test_module_can_be_imported(name):
    if name in NETWORKS and not (find_spec("torch") and find_spec("safetensors")):
        pytest.skip('needs the extra "nn"')
    if name in SIONNA and not (find_spec("torch") and find_spec("sionna")):
        pytest.skip('needs the extra "sionna"')
    import_module(name)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_only_networks_need_an_extra():
    """In a process of its own, in which no extra can be imported."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS}))\n"
    code += "from importlib import import_module\n"
    code += f"for name in {OTHERS}:\n    import_module(name)\n"
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_package_does_not_import_torch():
    code = "import sys, isac_toolbox.cli, isac_toolbox.cli.nn_compress; print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("missing", "module", "extra"), [("torch", "nn", "nn"), ("sionna", "interop.sionna", "sionna")]
)
def test_without_an_extra_the_message_says_what_to_install(missing, module, extra):
    code = f"""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "{missing}" else find(name, *rest)
import isac_toolbox.{module}
"""
    done = run(code)
    assert done.returncode != 0 and missing in done.stderr
    assert f'pip install "isac_toolbox[{extra}]"' in done.stderr


def test_the_oldest_versions_tested_are_the_declared_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = dict(line.split(">=") for line in project["dependencies"])
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.keys() == declared.keys()
    for name, version in tested.items():
        assert version.removesuffix(".0") == declared[name].removesuffix(".0"), name
