"""One choice of a streamed chat: text as it comes, calls as they are known."""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.router.web.openai.answers import (
    ChatChunkChoice,
    Delta,
    FunctionAnswer,
    ToolCallAnswer,
    ToolCallDelta,
    finish,
)
from lorax_spec.router.web.openai.calling import Plan, calls, may_be_call, tool_call
from lorax_spec.router.web.openai.logprobs import chat_logprobs
from lorax_spec.types import Details, StreamResponse, Token


class ChoiceStream:
    """Holds text back while it may still turn out to be a call of a function."""

    def __init__(self, index: int, plan: Plan, logprobs: bool) -> None:
        self._index = index
        self._plan = plan
        self._logprobs = logprobs
        self._begun = False
        self._holding = plan.mode in ("maybe", "call")
        self._held: list[Token] = []

    def add(self, events: Sequence[StreamResponse]) -> list[ChatChunkChoice]:
        """What may be sent now."""
        choices = [] if self._begun else self._begin()
        for event in events:
            if event.token is not None:
                choices += self._token(event.token)
            if event.details is not None:
                choices += self._end(event.details)
        return choices

    def _begin(self) -> list[ChatChunkChoice]:
        self._begun = True
        if self._plan.mode != "arguments":
            return [self._choice(Delta(role="assistant", content=""))]
        call = self._call(0, tool_call(self._plan.names[0], ""))
        return [self._choice(Delta(role="assistant", tool_calls=[call]))]

    def _token(self, token: Token) -> list[ChatChunkChoice]:
        if not self._holding:
            return self._shown(token)
        self._held.append(token)
        if self._plan.mode == "call" or may_be_call(self._text()):
            return []
        return self._release()

    def _release(self) -> list[ChatChunkChoice]:
        self._holding = False
        held, self._held = self._held, []
        return [choice for token in held for choice in self._shown(token)]

    def _shown(self, token: Token) -> list[ChatChunkChoice]:
        if not token.text and not self._logprobs:
            return []
        if self._plan.mode == "arguments":
            delta = ToolCallDelta(index=0, function=FunctionAnswer(arguments=token.text))
            return [self._choice(Delta(tool_calls=[delta]), token)]
        return [self._choice(Delta(content=token.text), token)]

    def _end(self, details: Details) -> list[ChatChunkChoice]:
        reason, choices = finish(details.finish_reason), []
        made = calls(self._plan, self._text()) if self._holding else []
        if made:
            deltas = [self._call(place, call) for place, call in enumerate(made)]
            choices.append(self._choice(Delta(tool_calls=deltas)))
        else:
            choices += self._release()
        if reason == "stop" and (made or self._plan.mode == "arguments"):
            reason = "tool_calls"
        last = self._choice(Delta())
        return [*choices, last.model_copy(update={"finish_reason": reason})]

    def _text(self) -> str:
        return "".join(token.text for token in self._held)

    def _choice(self, delta: Delta, token: Token | None = None) -> ChatChunkChoice:
        told = chat_logprobs((token,)) if token is not None and self._logprobs else None
        return ChatChunkChoice(index=self._index, delta=delta, logprobs=told, finish_reason=None)

    @staticmethod
    def _call(place: int, call: ToolCallAnswer) -> ToolCallDelta:
        return ToolCallDelta(index=place, id=call.id, type="function", function=call.function)
