from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.python_recipes import SourceTree
from pytest_nemoperf.frameworks.configs.python_values import UNKNOWN, Opaque


def write(root: Path, **files: str) -> None:
    """Write modules of a package; their paths, or names with two underscores for a dot."""
    for name, text in files.items():
        parts = [name] if name.endswith(".py") else name.split("__")
        path = root.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")


def called(root: Path, body: str, *, function: str = "recipe", **files: str) -> Any:
    """Return what a function of a file with that text returns."""
    write(root, pkg__recipes=body, **files)
    return SourceTree(root).call(root / "pkg" / "recipes.py", function=function)


def plain(value: Any) -> Any:
    """Return an object's attributes, and those of its attributes."""
    if isinstance(value, Opaque):
        return {name: plain(each) for name, each in value.values.items()}
    return value


def test_attributes_of_an_object_of_elsewhere_are_kept(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config, Train

        def recipe():
            cfg = Config(train=Train(steps=10), note="a")
            cfg.train.steps = 4 * 5
            cfg.model.layers, cfg.model.heads = 2, 4
            cfg.train.batch = cfg.train.steps // 2 if cfg.note == "a" else 0
            return cfg
        """,
    )

    assert config.made_by == "Config"
    assert plain(config) == {"train": {"steps": 20, "batch": 10}, "note": "a"}
    assert plain(config.get("model")) == {"layers": 2, "heads": 4}
    assert config.get("note_of") is None


def test_an_attribute_that_is_only_read_was_not_set(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config

        def recipe():
            cfg = Config()
            if cfg.peft is None and cfg.model.size > 3:
                cfg.other = 1
            model = cfg.model
            model.deep.layers = 2
            return cfg
        """,
    )

    assert config.get("peft") is None
    assert config.get("model").get("deep").get("layers") == 2
    assert config.get("other") is UNKNOWN


def test_helpers_of_the_same_tree_are_followed(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from pkg.common import base as start
        from .deep.more import LENGTH

        def recipe():
            cfg = start(layers=3, **{"heads": 8})
            cfg.length = LENGTH["long"]
            return cfg
        """,
        pkg__common="""
        from elsewhere import Config
        def base(layers, *, heads=4, kind="gpt", **more):
            cfg = Config()
            cfg.layers = layers
            cfg.heads = heads
            cfg.kind = f"{kind}-{layers}"
            _finish(cfg)
            return cfg
        def _finish(cfg):
            for name in ("a", "b"):
                setattr(cfg, name, len(name))
        """,
        pkg__deep__more="LENGTH = {'long': 2 ** 3}\n",
    )

    assert plain(config) == {"layers": 3, "heads": 8, "kind": "gpt-3", "a": 1, "b": 1, "length": 8}


def test_a_class_of_the_tree_has_its_defaults(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from dataclasses import dataclass

        @dataclass
        class Base:
            layers: int = 2
            heads: int = 4

        @dataclass
        class Model(Base):
            heads: int = 8

        def recipe():
            model = Model(layers=3)
            model.total = model.layers * model.heads
            return model
        """,
    )

    assert (config.get("layers"), config.get("heads"), config.get("total")) == (3, 8, 24)


def test_calls_and_methods_remember_what_they_were_made_from(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Bridge, Config

        def recipe():
            return Config(model=Bridge.from_name("org/model").to_provider(load=False))
        """,
    )

    chain = list(config.get("model").chain())
    assert [each.made_by for each in chain] == ["to_provider", "from_name", "Bridge"]
    assert chain[1].args == ("org/model",)
    assert chain[0].values == {"load": False}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1 if not False else 2", 1, id="a choice"),
        pytest.param("'a-b'.replace('-', '_').upper()", "A_B", id="methods of a text"),
        pytest.param("{'a': 1, **{'b': 2}}.get('b')", 2, id="a mapping"),
        pytest.param("[*range(2), 5][-1]", 5, id="a list"),
        pytest.param("(1, 2)[0]", 1, id="a tuple"),
        pytest.param("max(2, min(3, 4)) + int('7')", 10, id="functions"),
        pytest.param("1 < 2 <= 2 and 'a' in 'abc' and 3 not in [1]", True, id="comparisons"),
        pytest.param("None or 5", 5, id="or"),
        pytest.param("isinstance('a', str)", True, id="a type"),
        pytest.param("+5 - -1", 6, id="signs"),
        pytest.param("~5", UNKNOWN, id="bits"),
        pytest.param("f'{3:02d}'", UNKNOWN, id="a text in a format"),
        pytest.param("f'{3!r}'", UNKNOWN, id="a text by a conversion"),
        pytest.param("(size := 4) + size", 8, id="an assignment inside"),
        pytest.param("other()", UNKNOWN, id="a function of another kind"),
        pytest.param("[x for x in [1]]", UNKNOWN, id="a comprehension"),
        pytest.param("lambda: 1", UNKNOWN, id="a lambda"),
        pytest.param("thing + 1", UNKNOWN, id="arithmetic with an object"),
        pytest.param("f'{thing}'", UNKNOWN, id="a text of an object"),
        pytest.param("thing == 1", UNKNOWN, id="a comparison with an object"),
        pytest.param("1 if thing.a else 2", UNKNOWN, id="a choice by an object"),
    ],
)
def test_expressions_of_known_values_are_known(tmp_path: Path, text: str, value: Any) -> None:
    config = called(
        tmp_path,
        f"""
        from elsewhere import Config, thing
        other = lambda: 1

        def recipe():
            return Config(value={text})
        """,
    )

    assert config.get("value") == value


def test_what_depends_on_the_unknown_is_unknown(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config, machine

        def recipe():
            cfg = Config(a=1, b=1, c=1, d=1, e=1, f=1, g=1)
            if machine.is_new():
                cfg.a = 2
                _change(cfg)
                setattr(cfg, "g", 2)
            else:
                cfg.c += 1
            for size in machine.sizes():
                cfg.d = size
            while machine.busy:
                cfg.e = 2
            return cfg

        def _change(cfg):
            cfg.b = 2
        """,
    )

    assert plain(config) == {"a": UNKNOWN, "b": UNKNOWN, "c": UNKNOWN, "d": UNKNOWN, "e": UNKNOWN, "f": 1, "g": UNKNOWN}


def test_names_that_loops_and_blocks_bind_are_not_those_of_before(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config, machine

        def recipe():
            size = other = gone = 1
            for size in machine.sizes():
                pass
            with machine.lock() as other:
                pass
            del gone
            return Config(size=size, other=other, gone=gone)
        """,
    )

    assert plain(config) == {"size": UNKNOWN, "other": UNKNOWN, "gone": UNKNOWN}


@pytest.mark.parametrize("end", ["break", "continue"])
def test_a_loop_that_is_left_early_is_not_followed(tmp_path: Path, end: str) -> None:
    config = called(
        tmp_path,
        f"""
        from elsewhere import Config

        def recipe():
            cfg = Config(a=0, b=0)
            for size in [1, 2, 3]:
                if size == 2:
                    {end}
                cfg.a = size
            for size in [1, 2, 3]:
                cfg.b = size
            else:
                cfg.b += 1
            return cfg
        """,
    )

    assert plain(config) == {"a": UNKNOWN, "b": 4}


def test_a_function_that_may_have_ended_leaves_the_rest_unknown(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config, machine

        def recipe():
            cfg = Config(a=1, b=1, c=1)
            cfg.d = _apply(cfg)
            return cfg

        def _apply(cfg):
            cfg.a = 2
            with machine.lock():
                if machine.is_old():
                    return 1
            cfg.b = 2
            return 2
        """,
    )

    assert plain(config) == {"a": 2, "b": UNKNOWN, "c": 1, "d": UNKNOWN}


def test_conditions_that_are_known_are_followed(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config

        def recipe(size="small"):
            cfg = Config()
            if size == "large":
                raise ValueError("not here")
            elif hasattr(cfg, "kind") is None:
                cfg.kind = 1
            try:
                cfg.layers = getattr(cfg, "none", 4)
            except AttributeError:
                cfg.layers = 0
            finally:
                cfg.done = True
            return cfg
        """,
    )

    assert (config.get("layers"), config.get("done")) == (4, True)


def test_a_copy_is_an_object_of_its_own(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        import copy
        from elsewhere import Config

        def recipe():
            cfg = Config(inner=Config(a=1), items=[1])
            other = copy.deepcopy(cfg)
            other.inner.a = 2
            cfg.other = other
            return cfg
        """,
    )

    assert plain(config) == {"inner": {"a": 1}, "items": [1], "other": {"inner": {"a": 2}, "items": [1]}}


def test_a_cast_is_its_value(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from typing import cast
        from elsewhere import Config

        def recipe():
            return cast("Config", Config(a=1))
        """,
    )

    assert plain(config) == {"a": 1}


def test_a_function_may_choose_another_by_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        pkg__recipes="""
        from pkg.mixed import choose
        def recipe():
            return choose("bf16-mixed")
        """,
        pkg__mixed="""
        from elsewhere import Mixed
        def bf16_mixed():
            return Mixed(bf16=True)
        def choose(name):
            return REGISTRY[name]()
        """,
    )
    tree = SourceTree(tmp_path, by_name=("choose",))

    config = tree.call(tmp_path / "pkg" / "recipes.py", function="recipe")

    assert plain(config) == {"bf16": True}
    assert plain(tree.call_named("pkg.mixed", "bf16_mixed")) == {"bf16": True}
    assert tree.call_named("pkg.none", "x") is UNKNOWN


def test_names_at_the_top_may_be_imported_or_set_under_conditions(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        try:
            from pkg.common import VALUE
        except ImportError:
            VALUE = None
        from elsewhere import Config

        def recipe():
            return Config(value=VALUE)
        """,
        pkg__common="if True:\n    VALUE: int = 3\n",
    )

    assert config.get("value") == 3
    tree = SourceTree(tmp_path)
    assert tree.functions(tmp_path / "pkg" / "recipes.py") == ["recipe"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "def recipes(): pass", r"recipes\.py has no function 'recipe': did you mean recipes\?", id="no function"
        ),
        pytest.param("VALUE = 1", r"recipes\.py has no function 'recipe': it defines none", id="no functions"),
        pytest.param("def recipe(:", r"recipes\.py can't be read as Python", id="no Python"),
        pytest.param(
            "def recipe():\n    raise ValueError('no PEFT')",
            r"recipe can't be followed: ValueError: line 2: raise ValueError\('no PEFT'\)",
            id="an error",
        ),
        pytest.param("def recipe():\n    return {}['a']", "recipe can't be followed: KeyError: 'a'", id="a key"),
        pytest.param("def recipe():\n    return 1 // 0", "can't be followed: ZeroDivisionError", id="arithmetic"),
    ],
)
def test_what_can_not_be_followed_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        called(tmp_path, text)


def test_nothing_of_the_source_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    called(
        tmp_path,
        f"""
        import pathlib
        pathlib.Path({str(marker)!r}).touch()
        def recipe():
            open({str(marker)!r}, "w")
            pathlib.Path({str(marker)!r}).touch()
            return __import__("os").getcwd()
        """,
    )

    assert not marker.exists()


def test_statements_of_several_kinds_are_followed(tmp_path: Path) -> None:
    config = called(
        tmp_path,
        """
        from elsewhere import Config, machine

        def recipe():
            cfg = Config(sizes=[1, 2], note={"a": 1})
            total: int = 0
            for size in cfg.sizes:
                total += size
            cfg.total = total
            cfg.sizes[0] = 5
            cfg.note["b"] = 2
            cfg.note["a"] += 1
            first, *rest = 1, 2, 3

            def inner(*values, scale=2, **more):
                from elsewhere import Part
                return Part(sum=sum(values) * scale, more=more)

            cfg.part = inner(*cfg.sizes, 3, scale=3, **{"kind": "x"})
            cfg.unknown = inner(*machine.values())
            match total:
                case 3:
                    cfg.total = 4
            with machine.lock():
                cfg.locked = True
            assert cfg.total
            del total
            return cfg
        """,
    )

    assert config.get("sizes") == [5, 2]
    assert config.get("note") == {"a": 2, "b": 2}
    assert plain(config.get("part")) == {"sum": 30, "more": {"kind": "x"}}
    assert config.get("unknown").get("sum") is UNKNOWN
    assert (config.get("total"), config.get("locked")) == (UNKNOWN, True)


def test_imports_of_the_same_package_are_found_from_wherever_they_are(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "pkg/__init__.py": "from .deep import VALUE\n",
            "pkg/deep/__init__.py": "from ..other import NUMBER as VALUE\n",
            "pkg/other.py": "NUMBER = 7\n",
        },
    )
    config = called(
        tmp_path,
        """
        import elsewhere
        from . import VALUE
        from pkg.none import Missing

        def recipe():
            return elsewhere.Config(value=VALUE, missing=Missing(1))
        """,
    )

    assert config.get("value") == 7
    assert config.get("missing").made_by == "Missing"
