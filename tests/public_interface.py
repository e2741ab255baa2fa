"""What of kdx is public, written down: names, options, exit statuses, the C header, fields of files
and of ``--json``.

``tests/test_public_interface.py`` compares it with ``tests/fixtures/public``. Everything is read
through the public interface itself, so that modules may move.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Union, get_args, get_origin

import kdx

# The modules that methods and data sets of other packages import; CONTRIBUTING.md lists them too.
EXTENSION_MODULES = (
    "kd_export.graph",
    "kd_train.datasets.layout",
    "kd_train.methods",
    "kd_train.models.backbones",
    "kd_train.models.blocks",
    "kd_train.models.bottleneck",
    "kd_train.models.pair",
    "kd_train.models.pyramid",
    "kd_train.models.teacher",
    "kd_train.recipes",
)
# Their constructors are not public: these functions make them.
MADE_BY = {"Bundle": "open_bundle", "Detector": "load", "DetectorGroup": "load_many"}


def python_names() -> dict[str, Any]:
    """Return every name of ``kdx.__all__`` with its kind and signature; of classes, their public
    members too."""
    return {name: _describe(name, getattr(kdx, name)) for name in sorted(kdx.__all__)}


def _describe(name: str, value: Any) -> Any:
    if not isinstance(value, type):
        return {"function": signature(value)} if callable(value) else {"value": type(value).__name__}
    bases = [base.__name__ for base in value.__mro__[1:] if base.__module__ == "builtins" and base is not object]
    if issubclass(value, enum.Enum):
        return {"enum": {member.name: member.value for member in value}, "members": class_members(value)}
    made_by = {"made_by": MADE_BY[name]} if name in MADE_BY else {"constructor": signature(value)}
    return {"class": bases, **made_by, "members": class_members(value)}


def class_members(owner: type) -> dict[str, Any]:
    """Return the public attributes and methods that a class has beyond those of Python's own
    classes."""
    inherited = {name for base in owner.__mro__ if base.__module__ in {"builtins", "enum"} for name in vars(base)}
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    names = {
        *(name for base in owner.__mro__ for name in vars(base)),
        *(field.name for field in fields),
        *getattr(owner, "__struct_fields__", ()),
    }
    called = {"__call__", "__getitem__", "__iter__", "__len__", "__enter__", "__exit__"}
    members = {}
    for name in sorted(names - inherited):
        is_enum_member = issubclass(owner, enum.Enum) and name in owner.__members__
        if is_enum_member or (name.startswith("_") and name not in called):
            continue
        member = inspect.getattr_static(owner, name, None)
        if isinstance(member, (staticmethod, classmethod)):
            member = getattr(owner, name)
        members[name] = signature(member) if callable(member) else "attribute"
    return members


def extension_names() -> dict[str, Any]:
    """Return the names of each of :data:`EXTENSION_MODULES`, with signatures and the classes' own
    members."""
    return {name: _names_of(import_module(name)) for name in EXTENSION_MODULES}


def _names_of(module: types.ModuleType) -> dict[str, Any]:
    # What a module imports is not part of it; aliases such as list[...] have the module of their
    # class.
    own = {module.__name__, "builtins"}
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", module.__name__) in own
    ]
    return {name: _describe_extension(getattr(module, name)) for name in sorted(names)}


def _describe_extension(value: Any) -> Any:
    if isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
        return {"function": signature(value)}
    if not isinstance(value, type) or get_origin(value) is not None:
        return "value"
    if issubclass(value, enum.Enum):
        return {"enum": {member.name: member.value for member in value}}
    # PyTorch's own members differ between its versions.
    ours = [base for base in value.__mro__ if base.__module__.partition(".")[0] in {"kdx", "kd_train", "kd_export"}]
    declared = {name for base in ours for name in (*vars(base), *getattr(base, "__annotations__", ()))}
    members = class_members(value)
    return {
        "class": [base.__name__ for base in ours[1:]],
        "constructor": signature(value),
        "members": {name: members[name] for name in sorted(declared & members.keys())},
    }


def attributes(value: object) -> list[str]:
    """Return the public attributes that an object has: its own, and those that descriptors of its
    class compute."""
    owner = type(value)
    computed = {name for name in dir(owner) if inspect.isdatadescriptor(inspect.getattr_static(owner, name))}
    names = (set(dir(value)) - set(dir(owner))) | (computed - set(dir(BaseException)))
    return sorted(name for name in names if not name.startswith("_"))


def signature(function: Callable[..., Any]) -> list[str]:
    """Return the parameters of a function: kind, name and default of each, without annotations and
    ``self``."""
    parameters = inspect.signature(function).parameters.values()
    return [_parameter(each) for each in parameters if each.name != "self"]


def _parameter(parameter: inspect.Parameter) -> str:
    bare = str(parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty))
    default = "" if parameter.default is inspect.Parameter.empty else f" = {_default(parameter.default)}"
    return f"{parameter.kind.name.lower()} {bare}{default}"


def _default(value: object) -> str:
    # Of an object, its class stands for it: its text may hold an address.
    return repr(value) if isinstance(value, (str, int, float, tuple, list, type(None))) else type(value).__name__


def command_line() -> dict[str, Any]:
    """Return every command with its arguments and options: names, type, limits, default, whether
    they repeat."""
    import typer
    from typer.utils import get_params_from_function

    from kdx.cli.app import app

    root: Any = typer.main.get_command(app)
    found = {"kdx": _parameters(root, get_params_from_function(app.registered_callback.callback))}  # type: ignore[union-attr, arg-type]
    for info in app.registered_commands:
        name = str(info.name)
        found[f"kdx {name}"] = _parameters(root.commands[name], get_params_from_function(info.callback))  # type: ignore[arg-type]
    assert len(found) == len(root.commands) + 1
    return dict(sorted(found.items()))


def _parameters(command: Any, declared: dict[str, Any]) -> list[dict[str, Any]]:
    # Arguments have an order, options have none.
    listed = sorted(command.params, key=lambda each: each.opts[0] if each.param_type_name == "option" else "")
    return [_option(each, declared[each.name]) for each in listed]


def _option(parameter: Any, declared: Any) -> dict[str, Any]:
    limits = {name: getattr(declared.default, name) for name in ("min", "max")}
    return {
        "names": parameter.opts + parameter.secondary_opts,
        "kind": parameter.param_type_name,
        "type": _type_name(declared.annotation),
        **{name: limit for name, limit in limits.items() if limit is not None},
        "required": parameter.required,
        "multiple": parameter.multiple or parameter.nargs != 1,
        "default": parameter.default if isinstance(parameter.default, (str, int, float, list)) else None,
    }


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) in {Union, types.UnionType}:  # None only says that there may be no value
        return " or ".join(_type_name(each) for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is not None:
        inner = ", ".join(_type_name(each) for each in get_args(annotation))
        return f"{get_origin(annotation).__name__}[{inner}]"
    if issubclass(annotation, enum.Enum):
        return "|".join(str(member.value) for member in annotation)
    return str(annotation.__name__)


def error_classes() -> dict[str, int]:
    """Return the exit status of every error class that stands beside ``KdxError``."""
    module = sys.modules[kdx.KdxError.__module__]
    return {
        name: value.exit_status
        for name, value in sorted(vars(module).items())
        if isinstance(value, type) and issubclass(value, kdx.KdxError)
    }


def bare_header(text: str) -> str:
    """Return a C or C++ header without comments, blank lines and white space that means nothing."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def fields_of(value: Any, by_name: Mapping[str, int]) -> Any:
    """Return the layout of a JSON value: its fields, and kinds of values in place of the values.

    Args:
        value: What was decoded.
        by_name: Fields whose value maps names, of files for one, to values; the names are no
            fields. And how many such mappings stand in each other; -1 where what they map depends
            on the machine.
    """
    if isinstance(value, dict):
        return {key: _by_name(value[key], by_name, by_name.get(key, 0)) for key in value}
    if isinstance(value, list):
        return [functools.reduce(_merged, (fields_of(each, by_name) for each in value))] if value else []
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    return "number" if isinstance(value, (int, float)) else "text"


def _by_name(value: Any, by_name: Mapping[str, int], depth: int) -> Any:
    if depth < 0:
        return {}
    if depth == 0 or not isinstance(value, dict):
        return fields_of(value, by_name)
    inner = [_by_name(each, by_name, depth - 1) for each in value.values()]
    return {"*": functools.reduce(_merged, inner)} if inner else {}


def _merged(one: Any, other: Any) -> Any:
    """Return the layout of two values that stand in one place."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            key: _merged(one[key], other[key]) if key in one and key in other else {**one, **other}[key]
            for key in {**one, **other}
        }
    if isinstance(one, list) and isinstance(other, list):
        return [functools.reduce(_merged, one + other)] if one + other else []
    if isinstance(one, str) and isinstance(other, str):
        return " or ".join(sorted({*one.split(" or "), *other.split(" or ")}))
    return one if isinstance(other, str) else other  # a record, and null where there is none
