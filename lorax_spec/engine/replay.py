"""Recorded forward passes: what CUDA graphs are to a GPU, for the interpreter of a CPU.

On a small model most of a step goes into Python: modules calling modules to find out, every time
anew, which tensor functions to call on which weights.  For a given number of rows the answer is
always the same, so it is written down once, as straight-line code of nothing but those calls,
equal ones made once.

Whatever does not depend on the inputs is computed while recording and kept.  A recording is only
used after it gave the same bits as the model itself on other inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Program = Callable[..., tuple[torch.Tensor, ...]]


class Recorder(TorchFunctionMode):
    """Writes down the tensor functions that are called with anything that comes from ``inputs``.

    ``leaf`` calls are written down as they are, without a look inside.
    """

    def __init__(self, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        self._kept_alive: list[torch.Tensor] = []
        self._constants: dict[str, Any] = {}
        self._constant_names: dict[int, str] = {}
        self._lines: list[str] = []
        self._calls: dict[str, str] = {}
        self._paused = False
        self.parameters = [self._name(tensor) for tensor in inputs]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._paused:
            self._record(func, args, kwargs, result)
        return result

    def leaf(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call ``func`` and write the call down, not what it does."""
        self._paused = True
        try:
            result = func(*args)
        finally:
            self._paused = False
        self._record(func, args, {}, result, repeatable=False)
        return result

    def program(self, *outputs: torch.Tensor) -> Program:
        """The recording as a function of the inputs, giving ``outputs``."""
        results = ", ".join(self._names[id(output)] for output in outputs)
        # Defaults make every constant a local of the function, which is the fastest to read.
        constants = [f"{name}={name}" for name in self._constants]
        signature = ", ".join([*self.parameters, *constants])
        body = "\n    ".join([*self._lines, f"return {results},"])
        scope = dict(self._constants)
        exec(f"def program({signature}):\n    {body}", scope)
        program: Program = scope["program"]
        return program

    def _record(
        self,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        result: Any,
        *,
        repeatable: bool = True,
    ) -> None:
        if not self._depends((*args, *kwargs.values())):
            return
        in_place = getattr(func, "__name__", "").endswith("_") or not repeatable
        if any(result is arg for arg in args) and not in_place:
            return  # nothing was done, as by ``float()`` of what is float already
        tensors = [result] if isinstance(result, torch.Tensor) else result
        if not isinstance(tensors, list | tuple) or not all(
            isinstance(tensor, torch.Tensor) for tensor in tensors
        ):
            return  # a size, a type, a device: the same for every input of this shape
        words = [self._written(arg) for arg in args]
        words += [f"{key}={self._written(value)}" for key, value in kwargs.items()]
        call = f"{self._constant(func)}({', '.join(words)})"
        if not isinstance(result, torch.Tensor):
            self._lines.append(f"{', '.join(self._name(t) for t in tensors)}, = {call}")
        elif not in_place and call in self._calls:
            self._kept_alive.append(result)
            self._names[id(result)] = self._calls[call]
        else:
            self._calls[call] = name = self._name(result)
            self._lines.append(f"{name} = {call}")

    def _depends(self, values: Iterable[Any]) -> bool:
        return any(
            self._depends(value)
            if isinstance(value, list | tuple)
            else isinstance(value, torch.Tensor) and id(value) in self._names
            for value in values
        )

    def _name(self, tensor: torch.Tensor) -> str:
        self._kept_alive.append(tensor)  # an id must not be given to another tensor
        name = self._names[id(tensor)] = f"t{len(self._kept_alive)}"
        return name

    def _written(self, value: Any) -> str:
        if isinstance(value, torch.Tensor) and id(value) in self._names:
            return self._names[id(value)]
        if isinstance(value, list | tuple):
            inside = "".join(f"{self._written(item)}, " for item in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        return self._constant(value)

    def _constant(self, value: Any) -> str:
        if id(value) not in self._constant_names:
            name = f"c{len(self._constants)}"
            self._constants[name] = value
            self._constant_names[id(value)] = name
        return self._constant_names[id(value)]
