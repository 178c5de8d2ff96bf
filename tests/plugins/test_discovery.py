"""Components are found in distributions, folders and files, and told apart; nothing is imported for it."""

import multiprocessing
import multiprocessing.process
import operator
import pickle
import re
import sys
import textwrap

import pytest
from plugins_shelf import LOSS, point, project

from framework import plugins, registry
from framework.errors import ConfigError

RAISES = "raise RuntimeError('imported')\n"


def options(component):
    return {o.name: o.default for o in component.signature.options}


def test_an_installed_distribution_is_read_and_imported_only_when_loaded(shelf):
    shelf.install("Acme_Loss", point("loss", "acme", "acme_a:Scaled"), {"acme_a.py": LOSS.format(name="acme")})
    component = shelf.found()["loss=acme-loss.acme"]
    assert component is registry.find("loss", "acme") is registry.find("loss", "acme-loss.acme")
    assert (component.broken, component.summary, options(component)) == ("", "A loss.", {"scale": 1.0})
    assert component.origin == registry.Origin("acme-loss", "1.0", "installed")
    assert "acme" in registry.components("loss")
    assert "acme_a" not in sys.modules
    assert registry.build("loss", "acme", {"scale": 3}).scale == 3.0
    with pytest.raises(ConfigError, match=r"loss\.scale must be > 0, got -1"):
        registry.build("loss", "acme", {"scale": -1})


@pytest.mark.parametrize("place", ["acme_b.py", "src/acme_b.py"])
def test_a_folder_is_read_by_its_pyproject_and_goes_first_when_loaded(shelf, place):
    folder = shelf.folder("b", project("acme-b", "loss", "b", "acme_b:Scaled"), {place: LOSS.format(name="b")})
    before = list(sys.path)
    component = shelf.found()["loss=acme-b.b"]
    assert sys.path == before
    made = component.load()()
    assert sys.path[0] == str((folder / place).parent)
    assert type(pickle.loads(pickle.dumps(made))) is type(made)
    assert str(component.origin) == "acme-b 1.0"


def test_a_version_that_is_made_when_building_is_not_known(shelf):
    text = project("acme-c", "loss", "c", "acme_c:Scaled", 'dynamic = ["version"]')
    shelf.folder("c", text, {"acme_c.py": LOSS.format(name="c")})
    assert shelf.found()["loss=acme-c.c"].origin.version == "0+folder"


def test_a_file_is_a_module_that_pickle_finds(shelf):
    path = shelf.file("single.py", LOSS.format(name="single"))
    component = shelf.found()["loss=single.single"]
    assert component.origin == registry.Origin("single", "", "file")
    made = component.load()(scale=2.0)
    assert pickle.loads(pickle.dumps(made)).scale == 2.0
    assert sys.modules[type(made).__module__].__file__ == str(path)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_spawned_process_finds_the_classes(shelf, monkeypatch, place):
    if place == "file":
        shelf.file("sent.py", LOSS.format(name="sent"))
    else:
        shelf.folder(
            "sent", project("sent", "loss", "sent", "acme_sent:Scaled"), {"acme_sent.py": LOSS.format(name="sent")}
        )
    monkeypatch.setattr(multiprocessing.process, "ORIGINAL_DIR", str(shelf.here))  # where the command is started
    made = shelf.found()["loss=sent.sent"].load()(scale=3.0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(operator.attrgetter("scale"), (made,)) == 3.0


def test_a_file_of_another_folder_takes_the_place_of_one_of_its_name(shelf, monkeypatch):
    shelf.file("moved.py", LOSS.format(name="moved"))
    shelf.found()["loss=moved.moved"].load()
    (shelf.here / "elsewhere").mkdir()
    monkeypatch.chdir(shelf.here / "elsewhere")
    (shelf.here / "elsewhere" / "plugins").mkdir()
    path = shelf.here / "elsewhere" / "plugins" / "moved.py"
    path.write_text(LOSS.format(name="moved"))
    plugins.discover()
    assert sys.modules[registry.find("loss", "moved").load().__module__].__file__ == str(path)


def test_schemas_follow_the_plugins_own_package(shelf):
    modules = {
        "acme_d/__init__.py": "from .impl import *\nfrom acme_d.deep.inner import Deep as Deeper\n",
        "acme_d/impl.py": textwrap.dedent("""
            from __future__ import annotations
            from . import base
            from .base import RATE, Mode
            from .base import Base as Parent
            raise RuntimeError("imported")

            class Derived(Parent):
                pass

            class Other(base.Base):
                def __init__(self, *, rate: "float" = RATE, mode: Mode = "sum", more: base.Mode = "mean"): ...
        """),
        "acme_d/base.py": textwrap.dedent("""
            from typing import Literal
            Mode = Literal["sum", "mean"]
            RATE = 0.25
            class Base:
                def __init__(self, *, gamma: float = 2.0) -> None: ...
        """),
        "acme_d/deep/__init__.py": "",
        "acme_d/deep/inner.py": "from ..base import Base\nclass Deep(Base): ...\n",
    }
    points = "[framework.v1.loss]\nderived = acme_d:Derived\nother = acme_d.impl:Other\ndeep = acme_d:Deeper [extra]\n"
    shelf.install("acme-d", points, modules)
    found = shelf.found()
    assert [c.broken for c in found.values()] == ["", "", ""]
    assert options(found["loss=acme-d.derived"]) == options(found["loss=acme-d.deep"]) == {"gamma": 2.0}
    assert options(found["loss=acme-d.other"]) == {"rate": 0.25, "mode": "sum", "more": "mean"}
    checked = found["loss=acme-d.other"].signature.options
    with pytest.raises(ConfigError, match=r"loss\.mode cannot be 'sun': did you mean 'sum'"):
        registry.check_options(checked, {"mode": "sun"}, "loss")


def test_a_base_class_of_the_same_name_is_another_library(shelf):
    shelf.file("same.py", "import torch\n@registry.loss('same')\nclass Module(torch.nn.Module): ...\n")
    assert options(shelf.found()["loss=same.same"]) == {}


def test_a_thing_without_the_decorator_works(shelf):
    source = "class Plain:\n    def __init__(self, *, k: int = 3): self.k = k\n"
    shelf.install("acme-e", point("loss", "plain", "acme_e:Plain"), {"acme_e.py": source})
    plugins.discover()
    assert registry.build("loss", "plain", {"k": 4}).k == 4


def test_built_in_names_win_and_the_plugins_is_qualified(shelf):
    shelf.install("acme-f", point("loss", "mse", "acme_f:Scaled"), {"acme_f.py": LOSS.format(name="mse")})
    plugins.discover()
    assert registry.find("loss", "mse").origin is None
    assert registry.build("loss", "acme-f.mse", {"scale": 2}).scale == 2.0
    assert registry.components("loss").keys() >= {"mse", "acme-f.mse"}
    (line,) = plugins.remarks([("loss", "mse")])
    assert line == "loss 'mse' is the built-in one; that of acme-f 1.0 is acme-f.mse"
    assert plugins.remarks([("loss", "acme-f.mse")]) == []


def test_two_plugins_of_one_name_are_qualified_both(shelf):
    for name in ("g", "h"):
        shelf.install(
            f"acme-{name}", point("loss", "same", f"acme_{name}:Scaled"), {f"acme_{name}.py": LOSS.format(name="same")}
        )
    plugins.discover()
    with pytest.raises(ConfigError, match=r"loss 'same' is of several plugins: choose acme-g\.same or acme-h\.same\."):
        registry.find("loss", "same")
    made = [registry.build("loss", f"acme-{name}.same", {}) for name in ("g", "h")]
    assert [type(loss).__module__ for loss in made] == ["acme_g", "acme_h"]
    assert "same" not in registry.components("loss")


def test_a_broken_one_takes_no_name_from_another(shelf):
    shelf.install("acme-i", point("loss", "shared", "acme_i:Scaled"), {"acme_i.py": LOSS.format(name="shared")})
    shelf.install("acme-j", point("loss", "shared", "acme_none:Scaled"), {})
    plugins.discover()
    assert registry.find("loss", "shared").origin.distribution == "acme-i"


def test_a_folder_wins_over_the_same_distribution_installed(shelf):
    shelf.install("acme-k", point("loss", "k", "acme_k:Scaled"), {"acme_k.py": LOSS.format(name="k")}, version="0.9")
    folder = shelf.folder("k", project("acme_k", "loss", "k", "acme_k:Scaled"), {"acme_k.py": LOSS.format(name="k")})
    found = plugins.discover()
    assert registry.find("loss", "k").origin.version == "1.0"
    assert sys.modules[registry.find("loss", "k").load().__module__].__file__ == str(folder / "acme_k.py")
    assert [str(c.origin) for c in found.replaced] == ["acme-k 0.9"]
    assert plugins.remarks([]) == ["acme-k 0.9 is installed and in ./plugins: the folder is used"]
    assert plugins.remarks([]) == []


def test_of_a_distribution_twice_on_the_path_the_first_counts(shelf, monkeypatch):
    shelf.install("acme-l", point("loss", "l", "acme_l:Scaled"), {"acme_l.py": LOSS.format(name="l")}, version="2.0")
    other = shelf.here / "other"
    other.mkdir()
    monkeypatch.setattr(shelf, "site", other)
    shelf.install("acme-l", point("loss", "l", "acme_l:Scaled"), {}, version="1.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other)])
    assert str(shelf.found()["loss=acme-l.l"].origin) == "acme-l 2.0"


def test_the_switch(shelf, monkeypatch):
    shelf.install("acme-m", point("loss", "m", "acme_m:Scaled"), {"acme_m.py": LOSS.format(name="m")})
    shelf.folder("n", project("acme-n", "loss", "n", "acme_n:Scaled"), {"acme_n.py": LOSS.format(name="n")})
    shelf.file("my_o.py", LOSS.format(name="o"))
    everything = {"loss=acme-m.m", "loss=acme-n.n", "loss=my_o.o"}
    for value, names in {
        "": everything,
        "off": set(),
        "acme_m, my_o": {"loss=acme-m.m", "loss=my_o.o"},
        "Acme-N": {"loss=acme-n.n"},
    }.items():
        monkeypatch.setenv("FRAMEWORK_PLUGINS", value)
        assert shelf.found().keys() == names, value
    monkeypatch.setenv("FRAMEWORK_PLUGINS", "acme-mm")
    with pytest.raises(ConfigError, match=r"there is no plugin 'acme-mm': did you mean 'acme-m'\?"):
        plugins.discover()


BROKEN = {
    "a missing module": (point("loss", "x", "absent_module:X"), "the module absent_module is not there"),
    "a missing class": (point("loss", "x", "acme_p:Absent"), r"acme_p\.py has no class or function Absent"),
    "no class": (point("loss", "x", "acme_p"), "must be of the form 'module:Class'"),
    "another name": (point("loss", "x", "acme_p:Scaled"), r"decorated @loss\('p'\), and its entry point is loss 'x'"),
    "another kind": (point("metric", "p", "acme_p:Scaled"), "and its entry point is metric 'p'"),
    "no name": (point("loss", "P-p", "acme_p:Scaled"), "a name is a lower-case identifier"),
    "no kind": (point("optimiser", "p", "acme_p:Scaled"), "no kind of component 'optimiser': did you mean 'optimizer'"),
    "another API": ("[framework.v2.loss]\np = acme_p:Scaled\n", "for plugin API v2; this is v1: install a version"),
    "no type": (point("loss", "x", "acme_p:Untyped"), r"acme_p\.py:15: option 'k' has no type"),
    "no schema": (point("loss", "x", "acme_p:Open"), r"acme_p\.py:18: '\*\*options' hides"),
    "no configuration": (point("loss", "x", "acme_p:Odd"), r"acme_p\.py:21: option 'k' uses Tensor, which is no conf"),
    "a subscript of nothing": (point("loss", "x", "acme_p:Bent"), r"acme_p\.py:24: option 'k' uses .*subscriptable"),
    "a circle": (point("loss", "x", "acme_p:One"), "RecursionError"),
    "no Python": (point("loss", "x", "acme_q:X"), r"acme_q\.py:1 is not Python"),
    "no folder": (point("conf", "x", "acme_p.conf"), "the folder acme_p.conf is not there"),
}
SOURCE = (
    LOSS.format(name="p")
    + """
class Untyped:
    def __init__(self, *, k=1): ...

class Open:
    def __init__(self, **options: float): ...

class Odd:
    def __init__(self, *, k: Tensor = None): ...

class Bent:
    def __init__(self, *, k: float[3] = 1.0): ...

class One(Two): ...
class Two(One): ...
"""
)


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_listed_with_the_reason_and_fails_when_chosen(shelf, case):
    points, reason = BROKEN[case]
    shelf.install("acme-p", points, {"acme_p.py": SOURCE, "acme_q.py": "def :\n"})
    shelf.file("fine.py", LOSS.format(name="fine"))
    plugins.discover()
    assert "fine" in registry.components("loss")
    (component,) = (c for c in plugins.found.components if c.broken)
    assert re.search(reason, component.broken), component.broken
    assert component.name not in registry.components("loss")
    with pytest.raises(ConfigError, match=f"{component.kind} '{component.name}' of acme-p 1.0 is broken: "):
        registry.find(component.kind, component.name) if component.kind in registry.KINDS else component.load()
    assert "acme_p" not in sys.modules


def test_an_egg_info_without_a_version_in_its_name(shelf):
    info = shelf.install("acme-egg", point("loss", "egg", "acme_egg:Scaled"), {"acme_egg.py": LOSS.format(name="egg")})
    (info / "METADATA").rename(info / "PKG-INFO")
    info.rename(shelf.site / "acme_egg.egg-info")
    assert str(shelf.found()["loss=acme-egg.egg"].origin) == "acme-egg 1.0"


def test_a_half_installed_distribution_is_broken(shelf):
    info = shelf.install("acme-r", point("loss", "r", "acme_r:Scaled"), {"acme_r.py": LOSS.format(name="r")})
    (info / "METADATA").unlink()
    assert "half-installed, without METADATA" in shelf.found()["loss=acme-r.r"].broken


@pytest.mark.parametrize("content", [b"[framework.v1.loss]\nx = \xff", b"[framework.v1.loss\nx", b"framework.v1: x"])
def test_entry_points_that_cannot_be_read_stop_nobody(shelf, content):
    info = shelf.install("acme-s", "", {})
    (info / "entry_points.txt").write_bytes(content)
    shelf.install("acme-t", point("loss", "t", "acme_t:Scaled"), {"acme_t.py": LOSS.format(name="t")})
    found = shelf.found()
    assert found["loss=acme-t.t"].broken == ""
    assert all(c.broken and c.origin.distribution == "acme-s" for k, c in found.items() if k != "loss=acme-t.t")


FOLDERS = {
    "no TOML": ("x = [", "is not TOML"),
    "no name": ("[project]\nversion = '1'\n", r"has no name under \[project\]"),
    "no project": ("project = 3\n", r"has no name under \[project\]"),
    "no entry points": ("[project]\nname = 'x'\n", "offers nothing"),
    "entry points of another form": ("[project]\nname = 'x'\nentry-points = 3\n", "write entry points as"),
    "an entry point that is no text": (
        "[project]\nname = 'x'\n[project.entry-points.'framework.v1.loss']\nx = 3\n",
        "must be of the form",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_read_stop_nobody(shelf, case):
    content, reason = FOLDERS[case]
    shelf.folder("bad", content, {})
    shelf.file("fine.py", LOSS.format(name="fine"))
    (component,) = (c for c in shelf.found().values() if c.broken)
    assert re.search(reason, component.broken), component.broken
    assert "fine" in registry.components("loss")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (RAISES, "acme_u fails to import: RuntimeError: imported"),
        ("import sys\nsys.exit(3)\n", "acme_u fails to import: SystemExit: 3"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("del Scaled\n", r"acme_u\.py has no Scaled"),
    ],
)
def test_a_failing_import_names_the_distribution_and_the_reason(shelf, source, reason):
    shelf.install("acme-u", point("loss", "u", "acme_u:Scaled"), {"acme_u.py": LOSS.format(name="u") + source})
    plugins.discover()
    assert "u" in registry.components("loss")
    with pytest.raises(ConfigError, match=f"loss 'u' of acme-u 1.0: .*{reason}"):
        registry.build("loss", "u", {})


def test_a_module_imported_from_elsewhere_before_is_said(shelf):
    shelf.install("acme-w", "", {"acme_v.py": LOSS.format(name="v")})
    __import__("acme_v")
    shelf.folder("v", project("acme-v", "loss", "v", "acme_v:Scaled"), {"acme_v.py": LOSS.format(name="v")})
    plugins.discover()
    with pytest.raises(ConfigError, match=r"a module acme_v has been imported from .*site"):
        registry.build("loss", "v", {})


def test_files_name_each_of_their_own_that_is_broken(shelf):
    source = LOSS.format(name="good") + "@loss('good')\nclass Twin: ...\n@loss('../x')\nclass X: ...\n"
    shelf.file("many.py", source + "@loss('odd')\nclass Odd:\n    def __init__(self, *, k: Tensor): ...\n")
    shelf.file("no-module.py", LOSS.format(name="dash"))
    found = [(c.name, c.broken) for c in plugins.discover().components]
    assert [name for name, reason in found if not reason] == ["good"]
    reasons = " ".join(reason for _, reason in found)
    for part in (
        "has loss 'good' twice",
        "a name is a lower-case",
        "option 'k' uses Tensor",
        "cannot be called no-mod",
    ):
        assert part in reasons
