"""A function of tensors recorded as the operations that it calls, and played again without Python in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

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

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        """Call the function once on the CPU; raise RecordingError when that has ended, where it cannot be repeated."""
        graph = _Graph(inputs)
        with graph:
            outputs = function(*inputs)
        self.play = graph.closed(outputs)
        self.held = graph.held

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for these inputs."""
        before = torch._C._get_graph_executor_optimize(False)  # addmm, for one, would become mm and add
        try:
            outputs: tuple[Tensor, ...] = self.play(*inputs, *self.held)
        finally:
            torch._C._get_graph_executor_optimize(before)
        return outputs


class _Graph(TorchDispatchMode):
    """Becomes the graph of the operations below autograd that are called inside; holds none of their results."""

    only_notes = True
    """For those who choose another kernel where operations are intercepted."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would import it: 0.6 s

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.graph: Any = torch._C.Graph()
        self.values = WeakTensorKeyDictionary()
        for tensor in inputs:
            self.values[tensor] = self.graph.addInput()
        self.held: list[Tensor] = []
        """The tensors that are neither inputs nor results, to be given after the inputs."""
        self.obstacle = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.obstacle:
            self.obstacle = self._add(func, args, kwargs or {}, output)
        return output

    def closed(self, outputs: Sequence[Tensor]) -> Callable[..., Any]:
        """Return the graph as a function that returns these tensors."""
        if self.obstacle:
            raise RecordingError(self.obstacle)
        for tensor in outputs:
            self.graph.registerOutput(self._value(tensor, None))
        self.graph.makeMultiOutputIntoTuple()
        self.graph.lint()
        function: Callable[..., Any] = torch._C._create_function_from_graph("recording", self.graph)
        return function

    def _add(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> str:
        """Add a call of an operator; return why it cannot be repeated, or nothing."""
        schema = operator._schema
        if not any("Tensor" in str(part.type) for part in (*schema.arguments, *schema.returns)):
            return ""  # such as what two types are promoted to: of constants, a constant
        if torch.Tag.data_dependent_output in operator.tags or any(str(r.type) != "Tensor" for r in schema.returns):
            return f"{operator} gives more than tensors"
        given: list[Any] = []
        wrapped = False
        for place, argument in enumerate(schema.arguments):
            default = argument.default_value if argument.has_default_value() else None
            value = args[place] if place < len(args) else kwargs.get(argument.name, default)
            wrapped |= isinstance(value, int | float) and str(argument.type) == "Tensor"
            try:
                given.append(self._value(value, argument.type))
            except TypeError:
                return f"{operator} is given a {type(value).__name__}"
        node = self.graph.create(schema.name, given, len(schema.returns))
        self.graph.insertNode(node)
        # a number in the place of a tensor is the overload for numbers, which calls that for tensors
        if node.schema() != str(schema) and not wrapped:
            return f"{schema} is taken for {node.schema()}"
        results = output if isinstance(output, tuple) else (output,)
        for tensor, value in zip(results, node.outputs(), strict=True):
            if tensor is not None:  # a gradient that was not asked for
                self.values[tensor] = value
        return ""

    def _value(self, value: Any, kind: Any) -> Any:
        """Return what stands for an argument in the graph; raises TypeError for what it has no constants of."""
        if isinstance(value, Tensor):
            if value not in self.values:
                self.values[value] = self.graph.addInput()
                self.held.append(value)
            return self.values[value]
        if isinstance(kind, torch._C.OptionalType) and value is not None:
            kind = kind.getElementType()
        if isinstance(value, list | tuple):
            element = kind.getElementType()
            node = self.graph.create("prim::ListConstruct", [self._value(each, element) for each in value], 1)
            node.output().setType(kind)
            return self.graph.insertNode(node).output()
        if isinstance(value, torch.memory_format):
            value = MEMORY_FORMATS.index(value)
        return self.graph.insertConstant(float(value) if isinstance(kind, torch._C.FloatType) else value)
