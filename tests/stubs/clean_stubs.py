"""Turn what pybind11-stubgen reads off TensorRT's bindings into stubs that mypy can check with.

The signatures come from docstrings that the bindings write themselves, and those are not
Python in a few places. Each step says what it mends; none makes up a name or a parameter,
but for the tables at the top, which say where they come from.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re

_DEF = re.compile(r"^( *def \w+\()(.*)(\) -> .*:)$", re.MULTILINE)
_FAILS_WITH_NONE = ("could not be", "on failure", "no timing cache is set")
"""What the documentation of a result says where None is an outcome and no misuse."""
_SILENT_ABOUT_NONE = {"build_serialized_network", "create_execution_context"}
"""These give None on failure as well (seen with TensorRT-RTX), but do not say so."""
_MEMBERS = {
    # The buffer protocol and iteration by index leave no method that could be read.
    "IHostMemory": "def __buffer__(self, flags: int, /) -> memoryview: ...",
    "Dims": "def __iter__(self) -> collections.abc.Iterator[int]: ...",
    # What a subclass must define stands in the docstring only; these are its names.
    "IOutputAllocator": """
def reallocate_output_async(
    self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
) -> int: ...
def notify_shape(self, tensor_name: str, shape: Dims) -> None: ...
""",
}
_PACKAGE = """
__version__: str
def volume(iterable: collections.abc.Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[numpy.generic]: ...
"""
"""What the package adds to its extension module, there without types."""
_HEADER = '# mypy: disable-error-code="override,assignment,overload-cannot-match"\n'
"""Where classes of the library contradict their bases; each signature stands as it is."""
_LEFT_OUT = {
    "__enter__", "__exit__",  # deprecated: they warn
    "__eq__", "__ne__", "__hash__",  # object has them; overloads of them contradict it
}  # fmt: skip
_MODULES = {"typing", "typing_extensions", "collections", "numpy"}
_ANY = "typing.Any"
_INSTEAD = {
    "typing.SupportsInt": "int",  # which takes floats; the bindings refuse them
    "typing.SupportsFloat": "float",
    "list": "list[typing.Any]",
    "tuple": "tuple[typing.Any, ...]",
    "collections.abc.Callable": "collections.abc.Callable[..., typing.Any]",
    "collections.abc.Iterable": "collections.abc.Iterable[typing.Any]",
}
_CONVERTED = {
    # Parameters of these take what the bindings convert; the docstring of Dims says so.
    "Dims": "Dims | collections.abc.Sequence[int]",
    "FallbackString": "FallbackString | str",
}


def cleaned(raw: str) -> str:
    """Valid, typed stubs.

    Args:
        raw: What pybind11-stubgen prints with ``--print-invalid-expressions-as-is``.

    Raises:
        SyntaxError: The bindings have something that no step here knows.
    """
    module = ast.parse(_DEF.sub(_python_signature, _without_cpp(raw)))
    _Mend(module).visit(module)
    module.body += ast.parse(_PACKAGE).body
    module.body.insert(1, ast.Import([ast.alias("builtins")]))
    return _HEADER + ast.unparse(ast.fix_missing_locations(module)) + "\n"


def _without_cpp(raw: str) -> str:
    """C++ names keep their last part; defaults without a literal become ``...``."""
    raw = re.sub(r"detail::accessor<[^>]*>", _ANY, raw)
    raw = re.sub(r"= <\w+\.\w+: -?\d+>", "= ...", raw)
    return re.sub(r"\b(?:\w+::)+(\w+)", r"\1", raw)


def _python_signature(found: re.Match[str]) -> str:
    """Reserved words get an underscore; a parameter after one with a default gets one too."""
    parameters: list[str] = []
    for parameter in re.split(r", (?=\w+(?::|$))", found[2]):
        name, colon, rest = parameter.partition(":")
        name = f"{name}_" if keyword.iskeyword(name) else name
        follows_default = bool(parameters) and " = " in parameters[-1]
        default = " = ..." if follows_default and " = " not in rest else ""
        parameters.append(f"{name}{colon}{rest}{default}")
    return f"{found[1]}{', '.join(parameters)}{found[3]}"


class _Names(ast.NodeTransformer):
    """The names of one annotation."""

    def __init__(self, module: ast.Module) -> None:
        self._classes = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
        values = [node.target for node in module.body if isinstance(node, ast.AnnAssign)]
        self._values = {target.id for target in values if isinstance(target, ast.Name)}

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """A generic type that says of what."""
        node.slice = self.visit(node.slice)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """A name of a module, or ``ILogger.Severity``."""
        text = ast.unparse(node)
        return _expression(_INSTEAD[text]) if text in _INSTEAD else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """``bool`` is a data type of this module; ``IParserError`` is called ParserError."""
        name = node.id
        if name in _INSTEAD:
            return _expression(_INSTEAD[name])
        if name in self._values and hasattr(builtins, name):
            return _expression(f"builtins.{name}")
        if name in self._classes | _MODULES or hasattr(builtins, name):
            return node
        short = name.removeprefix("I")
        return _expression(short if short in self._classes else _ANY)


class _Mend(ast.NodeTransformer):
    """The whole module, in place."""

    def __init__(self, module: ast.Module) -> None:
        self._names = _Names(module)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Without docstrings and repetitions, with the members that cannot be read."""
        body = [self.visit(statement) for statement in node.body]
        kept = {ast.unparse(statement): statement for statement in body if statement is not None}
        for member in ast.parse(_MEMBERS.get(node.name, "")).body:
            kept[ast.unparse(member)] = member
        methods = [item for item in kept.values() if isinstance(item, ast.FunctionDef)]
        for method in methods:
            _mend_decorators(method, [item.name for item in methods])
        node.body = list(kept.values()) or _nothing()
        return node

    def visit_Expr(self, node: ast.Expr) -> None:
        """Docstrings."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign | None:
        """The type of an attribute."""
        if isinstance(node.target, ast.Name) and node.target.id in _LEFT_OUT:
            return None
        node.annotation = self._names.visit(node.annotation)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        """Aliases; the type of a value that is None for now is not known."""
        if isinstance(node.value, ast.Constant):
            return ast.AnnAssign(node.targets[0], _expression(_ANY), simple=1)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        """Types of parameters and result."""
        if node.name in _LEFT_OUT:
            return None
        arguments = node.args.args
        defaults = [None] * (len(arguments) - len(node.args.defaults)) + node.args.defaults
        for argument, default in zip(arguments, defaults, strict=True):
            own = argument is arguments[0] and argument.arg == "self"
            # Some name a sibling class there, which mypy refuses as the type of self.
            argument.annotation = None if own else self._parameter(argument.annotation, default)
        result = self._names.visit(node.returns) if node.returns else _expression(_ANY)
        node.returns = _optional(result) if _may_give_none(node) else result
        node.body = _nothing()
        return node

    def _parameter(self, annotation: ast.expr | None, default: ast.expr | None) -> ast.expr:
        if annotation is None:
            return _expression(_ANY)
        annotation = self._names.visit(annotation)
        text = ast.unparse(annotation)
        annotation = _expression(_CONVERTED[text]) if text in _CONVERTED else annotation
        nothing = isinstance(default, ast.Constant) and default.value is None
        return _optional(annotation) if nothing else annotation


def _mend_decorators(method: ast.FunctionDef, names: list[str]) -> None:
    """An overload that is alone is none; a property of the class has no self to read."""
    decorators = {ast.unparse(item): item for item in method.decorator_list}
    if names.count(method.name) == 1:
        decorators.pop("typing.overload", None)
    if not method.args.args and "property" in decorators:
        method.args.args.append(ast.arg("self"))
    method.decorator_list = list(decorators.values())


def _may_give_none(node: ast.FunctionDef) -> bool:
    said = (ast.get_docstring(node) or "").rpartition(":returns:")[2]
    stated = "None" in said and any(text in said for text in _FAILS_WITH_NONE)
    return stated or node.name in _SILENT_ABOUT_NONE


def _nothing() -> list[ast.stmt]:
    return [ast.Expr(ast.Constant(...))]


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _optional(annotation: ast.expr) -> ast.expr:
    return ast.BinOp(annotation, ast.BitOr(), ast.Constant(None))
