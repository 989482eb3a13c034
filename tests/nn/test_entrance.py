"""Names of ``isac_toolbox.nn``: all exist, old names of modules included, and none is loaded early."""

import subprocess
import sys
from types import ModuleType

import pytest

from isac_toolbox import nn

#: Modules by the names that they had when the package was flat.
OLD_MODULES = (
    *("baselines", "channels", "codings", "data", "evaluation", "export", "flops", "layers", "models"),
    *("posterior", "priors", "report", "sparse_linear", "ssvi", "training", "turbo_vbi"),
)


@pytest.mark.parametrize("name", nn.__all__)
def test_every_name_exists(name):
    assert getattr(nn, name) is not None
    assert name in dir(nn)


@pytest.mark.parametrize("name", OLD_MODULES)
def test_old_names_of_modules_still_lead_to_them(name):
    assert isinstance(getattr(nn, name), ModuleType) and name in nn.__all__


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match=r"'isac_toolbox\.nn' has no attribute 'compress_everything'"):
        _ = nn.compress_everything


def test_the_entrance_loads_nothing():
    code = "import sys, isac_toolbox.nn; print([n for n in ('torch', 'numba', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
