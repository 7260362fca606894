"""A node's configuration: what is right, what is wrong and where, and what a change asks for."""

import contextlib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.node import config as config_module
from tuncer.node.config import KEYS, Child, Config, ConfigError, load, parse
from tuncer.node.reloading import steps
from tuncer.node.specs import specs
from tuncer.node.toml_lines import line_of

EXAMPLE = resources.files("tuncer.node").joinpath("example.toml").read_text()


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        specs(parse(text, "a.toml"))
    return str(caught.value).splitlines()


def test_the_example_is_right_and_shows_every_key() -> None:
    config = parse(EXAMPLE, "example.toml")
    assert [child.id for child in config.children] == ["device lab0"]
    assert len(specs(config)) == 1
    whole = EXAMPLE.replace("\n# ", "\n").splitlines()
    shown = {line.partition("=")[0].strip() for line in whole if "=" in line}
    shown |= {"group"}  # which shares a line
    for section in KEYS.values():
        assert shown >= section.keys()


def test_what_is_not_said_has_its_usual_value() -> None:
    config = parse("", "a.toml")
    assert (config.name, config.children) == ("node", ())
    (spec,) = specs(parse("[device.lab0]", "a.toml"))
    assert (spec.id, spec.restart) == ("device lab0", "permanent")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = ", "a.toml:1: this is no TOML"),
        (
            "x = 1",
            "a.toml:1: [x]: there is no section 'x': there are actor, device, node, pipeline",
        ),
        (
            "\n[devise.a]",
            "a.toml:2: [devise]: there is no section 'devise': did you mean 'device'?",
        ),
        ("device = 5", "a.toml:1: device: a section is a table, as in [device.NAME]"),
        ("[device]\nmtu = 5", "a.toml:2: device.mtu: write [device.NAME] before its settings"),
        (
            "[device.a]\n\nmtuu = 5",
            "a.toml:3: [device.a]: there is no key 'mtuu': did you mean 'mtu'?",
        ),
        ('[device.a]\nmtu = "x"', "a.toml:2: [device.a]: mtu is a whole number above 0, not 'x'"),
        ("[device.a]\nmtu = true", "a.toml:2: [device.a]: mtu is a whole number above 0, not True"),
        ('[device.a]\nkind = "x"', 'a.toml:2: [device.a]: kind is "tun" or "tap", not \'x\''),
        (f"[device.{'x' * 16}]", f"a.toml:1: [device.{'x' * 16}]: a name has 1 to 15 characters"),
        ("[actor.a]", "a.toml:1: [actor.a]: start = text as in"),
        ('[actor.a]\nstart = "x"', "a.toml:2: [actor.a]: start is text as in"),
        ('[actor.a]\nstart = "os:path"', "a.toml:1: [actor.a]: os:path is no GenServer"),
        ('[actor.a]\nstart = "nowhere:x"', "a.toml:1: [actor.a]: ModuleNotFoundError"),
        ('[actor.a]\nstart = "exits:X"', "a.toml:1: [actor.a]: SystemExit: 0"),
        ('[actor.a]\nstart = "tuncer:Follower"\nargs = [2020-01-02]', "a.toml:1: [actor.a]: "),
        ('[pipeline.a]\nobject = "os:path"', "a.toml:1: [pipeline.a]: os:path is no Pipeline"),
        ('[device.a]\naddresses = ["10.0.0.300"]', "a.toml:1: [device.a]: '10.0.0.300' is no IP"),
        ('[device.a]\nfilter = "porst"', "a.toml:1: [device.a]: 'porst' is no filter expression"),
        ('[device.a]\nfilter = "udp"\nqueues = 2', "a.toml:1: [device.a]: a filter of several"),
        ("[device.a]\nlog_packets = 7", "a.toml:1: [device.a]: log_packets is a power of two"),
        ('[device.a]\nowner = "nobody there"', "a.toml:1: [device.a]: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = problems(text)
    assert found.startswith(says)


def test_two_actors_of_a_name() -> None:
    text = '[actor.a]\nstart="x:y"\nname="n"\n[actor.b]\nstart="x:y"\nname="n"'
    assert problems(text) == ["a.toml:6: [actor.b]: 'a' has this name, too"]


def test_too_deep() -> None:
    assert problems("a = " + "[" * 100_000) == ["a.toml:1: tables or lists are nested too deep"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems("[device.a]\nx = 1\n[device.b]\ny = 1\n[actor.c]")
    assert [line.split(":")[1] for line in found] == ["2", "4", "5"]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"[node]\n\xff")
    with pytest.raises(ConfigError, match=r"a\.toml:2: this is no UTF-8"):
        load(tmp_path / "a.toml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
names = st.sampled_from(["node", "device", "actor", "pipeline", "mtu", "start", "lab0", "x", "a b"])


@given(st.dictionaries(names, st.dictionaries(names, st.dictionaries(names, values) | values)))
def test_any_tables_are_right_or_a_problem(told: dict[str, Any]) -> None:
    for path, said in config_module._problems(told):
        assert said
        assert line_of("", path) == 1


@given(st.text(max_size=200) | st.text(alphabet="[]device.node=\"=x1\n #'", max_size=200))
def test_any_text_is_right_or_a_problem(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, "a.toml")


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from("efgh"), unique=True)))
def test_keys_are_found_on_their_lines(tables: dict[str, list[str]]) -> None:
    lines = ["# a comment"]
    expected: dict[tuple[str, ...], int] = {}
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        expected[table,] = len(lines)
        for key in keys:
            lines += [f'"{key}" = """', "[no.table]", 'x = 1 """']
            expected[table, key] = len(lines) - 2
    for path, line in expected.items():
        assert line_of("\n".join(lines), path) == line
        assert line_of("\n".join(lines), (*path, "deeper", 0)) == line


def test_lines_of_arrays_and_dotted_keys() -> None:
    text = "[[a]]\nx = 1\n[[a]]\ny.z = [\n 1,\n]\n"
    assert line_of(text, ("a", 1, "y", "z", 0)) == 4
    assert line_of(text, ("a", 0, "x")) == 2
    assert line_of(text, ("nowhere",)) == 1


def config(**children: dict[str, Any]) -> Config:
    told = tuple(Child("device", name, settings) for name, settings in children.items())
    return Config("a.toml", {}, told, "")


def test_a_change_touches_what_has_changed() -> None:
    before = config(one={"mtu": 5}, two={}, three={}, four={"queues": 2, "mtu": 7})
    after = config(five={}, three={}, one={"mtu": 6}, four={"mtu": 7})
    assert [str(step) for step in steps(before, after)] == [
        "stop device two",
        "replace device one: mtu 5 -> 6",
        "replace device four: queues 2 -> (none)",
        "start device five",
    ]
    assert steps(after, after) == []


settings = st.dictionaries(st.sampled_from(["mtu", "queues"]), st.integers(1, 3))
configs = st.dictionaries(st.sampled_from("abcde"), settings).map(lambda told: config(**told))


@given(configs, configs)
def test_steps_lead_from_one_to_the_other(before: Config, after: Config) -> None:
    there = {child.id: child.settings for child in before.children}
    for step in steps(before, after):
        if step.action != "start":
            del there[step.child.id]
        if step.action != "stop":
            assert step.child.id not in there
            there[step.child.id] = step.child.settings
    assert there == {child.id: child.settings for child in after.children}


def test_what_is_not_equal_to_itself_is_unchanged() -> None:
    text = '[actor.a]\nstart = "x:y"\nargs = [nan]'
    assert steps(parse(text, "a"), parse(text, "a")) == []


def test_another_node_is_no_reload() -> None:
    with pytest.raises(ValueError, match="that needs a restart of the node"):
        steps(parse("", "a"), parse('[node]\nname = "other"', "a"))
