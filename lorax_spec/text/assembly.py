"""Engine events in, a caller's tokens, text and details out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lorax_spec.engine.request import Emitted, EmittedToken, Finished
from lorax_spec.text.detokenizer import Detokenizer
from lorax_spec.text.stop import StopStrings
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.text.validate import ValidRequest
from lorax_spec.types import (
    AlternativeToken,
    Details,
    DrafterCounts,
    FinishReason,
    PrefillToken,
    RejectedGuess,
    Response,
    SpeculationDetails,
    StreamResponse,
    Timings,
    Token,
)

#: So many of the prompt's last tokens tell how the first generated one is written.
_CONTEXT = 6


class ResponseBuilder:
    """Turns one request's events into the stream its caller sees.

    Feed each event to ``add``; what comes back may be sent at once.  The last of it carries the
    text and details, and then ``response`` is set.  ``stopped`` says that a stop string ended the
    request, so that the engine can be told; events that still come are ignored.

    Tokens come with their text; all texts together are the generated text.  A token is held back
    while its text may be the beginning of a stop string or ends inside a character.
    """

    def __init__(
        self,
        request: ValidRequest,
        tokenizer: TextTokenizer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._clock = clock
        self._started = clock() - request.waited
        self._first_token: float | None = None
        self._detokenizer = Detokenizer(tokenizer, request.prompt[-_CONTEXT:])
        self._stops: StopStrings[Token] = StopStrings(request.parameters.stop)
        self._received = 0
        self._tokens: list[Token] = []
        self._prefill_logprobs: tuple[float, ...] = ()
        self._speculation = SpeculationDetails()
        self._rejected: list[RejectedGuess] = []
        self.response: Response | None = None

    @property
    def stopped(self) -> bool:
        return self._stops.matched

    def add(self, event: Emitted | Finished) -> list[StreamResponse]:
        """What the caller may see now."""
        if self.response is not None:
            return []
        self._speculation = event.speculation
        if isinstance(event, Finished):
            released = self._release(self._stops.flush(self._detokenizer.flush()))
            return [*released, self._finish(event.reason, event.timings)]
        self._prefill_logprobs = self._prefill_logprobs or event.prefill_logprobs
        if event.tokens and self._first_token is None:
            self._first_token = self._clock()
        released = []
        for index, token in enumerate(event.tokens):
            released += self._release(self._push(token))
            if self.stopped:
                self._speculation = without(event.speculation, event.tokens, index + 1)
                return [*released, self._finish(FinishReason.STOP_SEQUENCE, Timings())]
        self._rejected += [replace(one, text=self._name(one.id)) for one in event.rejected]
        if released and self._rejected:
            released[-1] = replace(released[-1], rejected=tuple(self._rejected))
            self._rejected = []
        return released

    def _push(self, emitted: EmittedToken) -> list[tuple[Token, str]]:
        self._received += 1
        text = self._detokenizer.add(emitted.id)
        return self._stops.push(self._token(emitted), text, growing=self._detokenizer.pending)

    def _release(self, released: Iterable[tuple[Token, str]]) -> list[StreamResponse]:
        tokens = [replace(token, text=text) for token, text in released]
        self._tokens += tokens
        return [StreamResponse(token=token, speculation=self._speculation) for token in tokens]

    def _token(self, emitted: EmittedToken) -> Token:
        return Token(
            id=emitted.id,
            text="",
            logprob=emitted.logprob,
            special=emitted.id in self._tokenizer.special_token_ids,
            skipped=bool(emitted.drafter),
            drafter=emitted.drafter,
            alternative_tokens=tuple(
                AlternativeToken(token_id, self._name(token_id), logprob)
                for token_id, logprob in emitted.alternatives
            ),
        )

    def _finish(self, reason: FinishReason, timings: Timings) -> StreamResponse:
        parameters = self._request.parameters
        text = "".join(token.text for token in self._tokens)
        if parameters.return_full_text:
            text = self._request.text + text
        details = Details(
            finish_reason=FinishReason.STOP_SEQUENCE if self.stopped else reason,
            prompt_tokens=len(self._request.prompt),
            generated_tokens=len(self._tokens),
            skipped_tokens=sum(token.skipped for token in self._tokens),
            seed=parameters.seed,
            prefill=self._prefill() if parameters.decoder_input_details else (),
            tokens=tuple(self._tokens) if parameters.details else (),
            speculation=self._speculation,
            timings=self._timings(timings),
        )
        self.response = Response(text, details)
        return StreamResponse(generated_text=text, details=details)

    def _prefill(self) -> tuple[PrefillToken, ...]:
        logprobs = (None, *self._prefill_logprobs)
        return tuple(
            PrefillToken(token_id, self._name(token_id), logprob)
            for token_id, logprob in zip(self._request.prompt, logprobs, strict=True)
        )

    def _timings(self, timings: Timings) -> Timings:
        """The engine's own, but what the caller saw is measured where it was seen."""
        now = self._clock()
        first = now if self._first_token is None else self._first_token
        return replace(
            timings,
            adapter_load=timings.adapter_load + self._request.waited,
            first_token=first - self._started,
            per_token=(now - first) / max(1, self._received - 1),
            total=now - self._started,
        )

    def _name(self, token_id: int) -> str:
        return self._tokenizer.decode((token_id,), skip_special_tokens=False)


def without(
    details: SpeculationDetails, tokens: Sequence[EmittedToken], kept: int
) -> SpeculationDetails:
    """The counts as if a step had accepted only the first ``kept`` of its ``tokens``.

    A step accepts one guess after the other, so its token ``i`` was guessed ``i + 1`` ahead.
    """
    dropped = [
        (depth, token.drafter)
        for depth, token in enumerate(tokens[kept:], start=kept)
        if token.drafter
    ]
    return replace(
        details,
        accepted_tokens=details.accepted_tokens - len(dropped),
        drafters={
            name: _without_depths(counts, [depth for depth, drafter in dropped if drafter == name])
            for name, counts in details.drafters.items()
        },
    )


def _without_depths(counts: DrafterCounts, depths: Sequence[int]) -> DrafterCounts:
    return replace(
        counts,
        accepted_tokens=counts.accepted_tokens - len(depths),
        accepted_by_depth=tuple(
            count - depths.count(depth) for depth, count in enumerate(counts.accepted_by_depth)
        ),
    )
