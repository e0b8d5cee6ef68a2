"""Contracts: public parameters say what they are."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PUBLIC = {"__init__", "__call__"}  # of the names that begin with _


def untyped(node: ast.Module | ast.ClassDef, prefix: str = ""):
    """Names of public parameters without a type below a module or class."""
    for item in node.body:
        name = getattr(item, "name", "_")
        if name.startswith("_") and name not in PUBLIC:
            continue
        if isinstance(item, ast.ClassDef):
            yield from untyped(item, f"{prefix}{name}.")
        elif isinstance(item, ast.FunctionDef):
            given = item.args
            several = filter(None, (given.vararg, given.kwarg))  # *args and **kwargs
            for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several):
                if argument.annotation is None and argument.arg not in ("self", "cls"):
                    yield f"{prefix}{name}({argument.arg})"


def test_public_parameters_have_types():
    sources = [path for path in ROOT.glob("**/*.py")
               if path.relative_to(ROOT).parts[0] not in ("tests", "docs", "experiments", ".venv")
               and path.parent.name != "configs"]  # whose functions are the same everywhere
    assert len(sources) > 100
    assert not [f"{path.relative_to(ROOT)}: {name}" for path in sources
                for name in untyped(ast.parse(path.read_text()))]
