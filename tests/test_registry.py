import copy
import json
import pickle
import sys
from abc import ABC, abstractmethod
from enum import Enum
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dsd import registry as registry_module
from dsd.registry import Recorded, Registry


class Tool(Recorded, ABC):
    @abstractmethod
    def use(self): ...


class Size(Enum):
    BIG = "big"


class Hammer(Tool):
    def __init__(self, weight=1.0, *, handle="wood", api_key=None, options=None):
        self.weight = weight

    def use(self):
        return f"bang {self.weight}"


class Box(Tool):
    def __init__(self, tools):
        self.tools = [tools_registry().create(tool) for tool in tools]

    def use(self):
        return [tool.use() for tool in self.tools]


class Plain:
    def __init__(self, size=1):
        self.size = size


class Bare(Tool):
    def use(self):
        return "nothing to set"


class Anything(Tool):
    def __init__(self, **settings):
        self.settings = settings

    def use(self):
        return self.settings


def tools_registry(**more):
    builtin = {
        name: f"{__name__}:{cls.__name__}" for name, cls in (("hammer", Hammer), ("box", Box), ("bare", Bare))
    }
    return Registry("tools", base=f"{__name__}:Tool", builtin={**builtin, **more})


@pytest.fixture
def tools():
    return tools_registry()


@pytest.fixture
def announce(monkeypatch):
    """Make installed packages announce (package, name, value)."""

    class Package:
        def __init__(self, name):
            self.name = name

    def set_points(*claims):
        points = []
        for package, name, value in claims:
            point = EntryPoint(name, value, "dsd.tools")
            vars(point)["dist"] = Package(package)
            points.append(point)
        monkeypatch.setattr(
            registry_module, "entry_points", lambda group: points if group == "dsd.tools" else []
        )

    return set_points


def test_a_spec_builds_an_object_and_an_object_gives_its_spec(tools):
    hammer = tools.create({"name": "hammer", "weight": 2.5})
    assert hammer.use() == "bang 2.5"
    assert tools.spec(hammer) == {"name": "hammer", "weight": 2.5}
    assert tools.create(tools.spec(hammer)).use() == hammer.use()
    assert tools.spec(tools.create("hammer")) == {"name": "hammer"}
    assert tools.spec(Hammer(3, handle="steel")) == {"name": "hammer", "weight": 3, "handle": "steel"}
    assert tools.create(hammer) is hammer


def test_create_does_not_edit_the_spec(tools):
    spec = {"name": "hammer", "weight": 2.0}
    tools.create(spec)
    assert spec == {"name": "hammer", "weight": 2.0}


def test_nested_objects_are_recorded_by_their_specs(tools):
    box = Box([Hammer(2), {"name": "hammer", "weight": 4}, "bare"])
    spec = tools.spec(box)
    assert spec == {
        "name": "box",
        "tools": [{"name": "hammer", "weight": 2}, {"name": "hammer", "weight": 4}, "bare"],
    }
    assert tools.create(json.loads(json.dumps(spec))).use() == box.use()


def test_secrets_stay_out_of_the_spec(tools):
    tools.register("anything")(Anything)
    spec = tools.spec(
        Anything(
            api_key="A", hf_token="B", aws_secret_access_key="C", PASSWORD="D", max_tokens=100, keyboard="q",
            headers={"Authorization": "E", "x": 1}, api_base="https://user:F@host/v1", many=[{"token": "G"}],
        )
    )  # fmt: skip
    assert spec == {
        "name": "anything",
        "max_tokens": 100,
        "keyboard": "q",
        "headers": {"x": 1},
        "api_base": "https://host/v1",
        "many": [{}],
    }


def test_specs_are_fit_for_json(tools):
    tools.register("anything")(Anything)
    spec = tools.spec(
        Anything(path=Path("a/b"), size=Size.BIG, pair=(1, None), function=len, deep={"x": {"y": True}})
    )
    del spec["name"]
    assert spec == {
        "path": "a/b",
        "size": "big",
        "pair": [1, None],
        "function": "<builtins.builtin_function_or_method>",
        "deep": {"x": {"y": True}},
    }


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda tool: pickle.loads(pickle.dumps(tool))])
def test_copies_keep_their_record(tools, copied):
    hammer = copied(Hammer(7))
    assert (hammer.weight, tools.spec(hammer)) == (7, {"name": "hammer", "weight": 7})


def test_objects_of_foreign_bases_are_recorded_when_created():
    plains = Registry("plain", base=f"{__name__}:Plain", builtin={"plain": f"{__name__}:Plain"})
    assert plains.spec(plains.create({"name": "plain", "size": 3})) == {"name": "plain", "size": 3}
    with pytest.raises(TypeError, match=r"Plain keeps no record of its arguments.*dsd\.plain\.create"):
        plains.spec(Plain(size=3))


def test_unknown_names_suggest_the_nearest(tools):
    with pytest.raises(LookupError) as caught:
        tools.get("hamer")
    assert str(caught.value) == "No Tool is named 'hamer'. Did you mean 'hammer'? Known: bare, box, hammer."
    with pytest.raises(LookupError, match=r"No Tool is named 'xyz'\. Known: bare"):
        tools.create("xyz")


def test_bad_arguments_list_the_allowed_ones(tools):
    with pytest.raises(TypeError) as caught:
        tools.create({"name": "hammer", "wieght": 2})
    assert str(caught.value) == (
        "Tool 'hammer' has no argument 'wieght'. Did you mean 'weight'? "
        "Allowed: weight, handle, api_key, options."
    )
    with pytest.raises(TypeError, match=r"Tool 'bare' has no argument 'weight'\. Allowed: none\."):
        tools.create({"name": "bare", "weight": 1})
    with pytest.raises(TypeError, match="Tool 'box' needs the argument 'tools'"):
        tools.create("box")


@pytest.mark.parametrize("spec", [3, None, ["hammer"], {"weight": 2}, {"name": 5}, object])
def test_what_is_no_spec_is_refused(tools, spec):
    with pytest.raises(TypeError, match=r"asked for by a name|needs a \"name\""):
        tools.create(spec)


def test_a_class_registered_here_is_known_by_its_name(tools):
    @tools.register("drill")
    class Drill(Bare):
        pass

    assert "drill" in tools.names()
    assert tools.get("drill") is Drill
    assert tools.spec(Drill()) == {"name": "drill"}


def test_running_a_cell_twice_replaces_the_class_but_another_class_is_an_error(tools):
    def cell():
        @tools.register("drill")
        class Drill(Bare):
            pass

        return Drill

    cell()
    second = cell()
    assert tools.get("drill") is second
    with pytest.raises(ValueError, match=r"'drill' is claimed by more than one Tool: .*Drill and .*Hammer"):
        tools.register("drill")(Hammer)
    with pytest.raises(ValueError, match=r"'hammer' is claimed by more than one Tool: dsd .* and .*Bare"):
        tools.register("hammer")(Bare)


def test_only_members_of_the_family_can_be_registered(tools):
    with pytest.raises(TypeError, match="which is not a Tool"):
        tools.register("odd")(dict)


def test_a_class_without_a_name_is_called_by_its_module(tools):
    spec = tools.spec(Anything(a=1))
    assert spec == {"name": f"{__name__}:Anything", "a": 1}
    assert tools.create(spec).use() == {"a": 1}
    with pytest.raises(TypeError, match="which is not a Tool"):
        tools.get("collections:OrderedDict")


def test_listing_and_registering_import_nothing(announce):
    announce(("other", "far", "module_that_is_not_there:Far"))
    tools = tools_registry(near="another_module_that_is_not_there:Near")
    assert tools.names() == ["bare", "box", "far", "hammer", "near"]
    for name, module in (("far", "module_that_is_not_there"), ("near", "another_module_that_is_not_there")):
        with pytest.raises(ModuleNotFoundError, match=module):
            tools.get(name)
    assert "module_that_is_not_there" not in sys.modules


def test_other_packages_join_by_entry_points(tools, announce):
    announce(("dsd-pliers", "pliers", f"{__name__}:Anything"))
    assert tools.create({"name": "pliers", "a": 1}).use() == {"a": 1}
    assert tools.spec(Anything()) == {"name": "pliers"}


def test_one_name_in_two_packages_names_both_and_spares_the_others(tools, announce):
    announce(
        ("dsd-one", "saw", f"{__name__}:Bare"),
        ("dsd-two", "saw", f"{__name__}:Hammer"),
        ("dsd-three", "box", "x:Y"),
    )
    with pytest.raises(ValueError, match=r"'saw' is claimed by more than one Tool: dsd-one .* and dsd-two "):
        tools.get("saw")
    with pytest.raises(ValueError, match=r"'box' is claimed .*: dsd \(.*:Box\) and dsd-three \(x:Y\)"):
        tools.get("box")
    assert tools.create("hammer").use() == "bang 1.0"
    assert tools.names() == ["bare", "box", "hammer", "saw"]


def test_members_serve_a_family_package(tools):
    assert tools.member("Tool") is Tool
    assert tools.member("Hammer") is Hammer
    assert tools.members() == ["Bare", "Box", "Hammer", "Tool"]
    with pytest.raises(AttributeError, match=r"module 'dsd\.tools' has no attribute 'Anvil'"):
        tools.member("Anvil")
