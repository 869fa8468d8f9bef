"""``ServeOptions`` as typer options: one definition for flag, variable, default and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from lorax_spec.config import Option, ServeOptions, Side, options_of


def with_options(side: Side) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every option of ``side``; it receives them as its first argument."""
    chosen = options_of(side)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def wrapper(**values: Any) -> None:
            given = {one.name: values.pop(one.name) for one in chosen}
            lists = {name: tuple(value) for name, value in given.items() if type(value) is list}
            try:
                options = ServeOptions(**{**given, **lists})
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error
            command(options, **values)

        parameters = [_parameter(one) for one in chosen]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        return wrapper

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """Typer knows repeated options as lists, and names both flags of a switch itself."""
    repeated = option.kind == tuple[str, ...]
    switch = option.kind in (bool, bool | None)
    setting = typer.Option(
        *(() if switch else (option.flag,)),
        envvar=option.variable,
        help=option.setting.help,
        rich_help_panel=option.setting.topic,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=[] if repeated else option.default,
        annotation=Annotated[list[str] if repeated else option.kind, setting],
    )
