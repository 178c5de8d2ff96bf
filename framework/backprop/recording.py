"""A function of tensors recorded as the operations that it calls, and played again without Python in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Call = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
"""An operator, its arguments by place and by name, and its results."""

MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
"""In the order of their numbers."""


class RecordingError(Exception):
    """A function calls what a recording cannot repeat."""


class Recording:
    """Repeats the operations of one call on other inputs of the same shapes, by torch's graph interpreter.

    The kernels and their order are those of the call, so that the numbers are the same, draws included. Tensors that
    the function did not get as inputs, such as parameters, are those of the call, with what they hold by now. Numbers
    that it computed in Python from shapes or options are what they were.
    """

    def __init__(self, calls: Sequence[Call], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self.graph: Any = torch._C.Graph()
        self.values = {id(tensor): self.graph.addInput() for tensor in inputs}
        self.held: list[Tensor] = []
        """The tensors that are no inputs."""
        for operator, args, kwargs, output in calls:
            self._add(operator, args, kwargs, output)
        for tensor in outputs:
            self.graph.registerOutput(self._value(tensor, None))
        self.graph.makeMultiOutputIntoTuple()
        self.graph.lint()
        self.play = torch._C._create_function_from_graph("recording", self.graph)
        del self.values, self.graph

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for these inputs."""
        outputs: tuple[Tensor, ...] = self.play(*inputs, *self.held)
        return outputs

    def _add(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Add a call of an operator to the graph."""
        schema = operator._schema
        if not any("Tensor" in str(part.type) for part in (*schema.arguments, *schema.returns)):
            return  # such as what two types are promoted to: of constants, a constant
        if torch.Tag.data_dependent_output in operator.tags or any(str(r.type) != "Tensor" for r in schema.returns):
            raise RecordingError(str(operator))
        given: list[Any] = []
        wrapped = False
        for place, argument in enumerate(schema.arguments):
            default = argument.default_value if argument.has_default_value() else None
            value = args[place] if place < len(args) else kwargs.get(argument.name, default)
            given.append(self._value(value, argument.type))
            wrapped |= isinstance(value, int | float) and str(argument.type) == "Tensor"
        node = self.graph.create(schema.name, given, len(schema.returns))
        self.graph.insertNode(node)
        # a number in the place of a tensor is the overload for numbers, which calls that for tensors
        if node.schema() != str(schema) and not wrapped:
            raise RecordingError(f"{schema} is taken for {node.schema()}")
        results = output if isinstance(output, tuple) else (output,)
        self.values |= {id(tensor): value for tensor, value in zip(results, node.outputs(), strict=True)}

    def _value(self, value: Any, kind: Any) -> Any:
        """Return what stands for an argument in the graph."""
        if isinstance(value, Tensor):
            if id(value) not in self.values:
                self.values[id(value)] = self.graph.addInput()
                self.held.append(value)
            return self.values[id(value)]
        if isinstance(kind, torch._C.OptionalType) and value is not None:
            kind = kind.getElementType()
        if isinstance(value, list | tuple):
            element = kind.getElementType()
            node = self.graph.create("prim::ListConstruct", [self._value(each, element) for each in value], 1)
            node.output().setType(kind)
            return self.graph.insertNode(node).output()
        if isinstance(value, torch.memory_format):
            value = MEMORY_FORMATS.index(value)
        try:
            return self.graph.insertConstant(float(value) if isinstance(kind, torch._C.FloatType) else value)
        except TypeError:
            raise RecordingError(f"{type(value).__name__} as an argument") from None


class _Recorder(TorchDispatchMode):
    """Notes each operation below autograd, with its arguments and results."""

    only_notes = True
    """For those who choose another kernel where operations are intercepted."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would import it: 0.6 s

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output


def record(function: Callable[..., list[Tensor]], *inputs: Tensor) -> Recording:
    """Call a function on the CPU once, and return a recording of the call; raises RecordingError when it has ended."""
    with _Recorder() as recorder:
        outputs = function(*inputs)
    return Recording(recorder.calls, inputs, outputs)
