"""What importing a module may not do, each found and named."""

import os

import pytest

from framework.testing import run_checks

EFFECTS = {
    "random.seed(1)": "Python's random state",
    "import numpy; numpy.random.seed(1)": "NumPy's random state",
    "torch.manual_seed(1)": "torch's random state",
    "torch.set_default_dtype(torch.float64)": "torch's default dtype from torch.float32 to torch.float64",
    "torch.set_num_threads(3)": "torch's number of threads",
    "torch.set_grad_enabled(False)": "torch's gradient mode from True to False",
    "os.chdir('/')": "the working directory",
    "os.environ['NEW_NAME'] = '1'": "os.environ: NEW_NAME",
    "warnings.simplefilter('ignore', UserWarning)": "the filters of warnings",
    "signal.signal(signal.SIGUSR2, signal.SIG_IGN)": "the handlers of signals",
    "threading.Thread(target=time.sleep, args=(5,), daemon=True, name='mine').start()": "the running threads",
    "print('hello')": "what is printed: 'hello'",
    "open('log.txt', 'w').close()": "the folder: it made log.txt",
}

SOURCE = """
import os, random, signal, sys, threading, time, warnings

import torch

from framework import loss

if os.getppid() != {parent}:
    {effect}


@loss("{name}")
class Quiet:
    "A loss that is never called."
"""


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_is_found_and_named(effect, tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    name = f"effect_{list(EFFECTS).index(effect)}"
    (tmp_path / "plugins" / f"{name}.py").write_text(SOURCE.format(effect=effect, name=name, parent=os.getppid()))
    monkeypatch.chdir(tmp_path)
    (result,) = run_checks(name, checks=["imports_without_side_effects"])
    assert result.verdict == "failed"
    assert EFFECTS[effect] in result.seen
    assert ";" not in result.seen
