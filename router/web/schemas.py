"""What LoRAX's and TGI's clients send: their field names, our own beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.web.fields import (
    SpeculationField,
    Strict,
    logit_bias,
    response_format,
    speculation,
)
from lorax_spec.types import (
    GenerateRequest,
    MergedAdapters,
    Message,
    Parameters,
    ResponseFormat,
)


class MergedAdaptersField(Strict):
    """Several LoRAs, merged into one for this request."""

    ids: list[str]
    weights: list[float] | None = Field(
        default=None, description="One for each id; none: 1 for all."
    )
    merge_strategy: Literal["linear", "ties", "dare_linear", "dare_ties"] | None = None
    density: float | None = Field(
        default=None, description="The share of each adapter's numbers that ties and dare keep."
    )
    majority_sign_method: Literal["total", "frequency"] | None = None

    def merged(self) -> MergedAdapters:
        return MergedAdapters(
            tuple(self.ids),
            tuple(self.weights or ()),
            self.merge_strategy or "linear",
            self.density,
            self.majority_sign_method or "total",
        )


class ResponseFormatField(Strict):
    type: Literal["text", "json_object", "json_schema", "regex", "choice"]
    schema_: Any = Field(
        default=None,
        alias="schema",
        description="A JSON schema, a regular expression, or a list of choices.",
    )


class GrammarField(Strict):
    """TGI's way to say ``response_format``."""

    type: Literal["json", "json_schema", "json_object", "regex"]
    value: Any = None


class ParametersField(Strict):
    """How to generate; absent or null: the server's default."""

    adapter_id: str | None = Field(
        default=None,
        description='Absent or empty: the server\'s default adapter; "__base_model__": none.',
    )
    adapter_source: Literal["hub", "local", "s3"] | None = None
    adapter_revision: str | None = None
    merged_adapters: MergedAdaptersField | None = None
    api_token: str | None = Field(
        default=None,
        description="Token for a private adapter; absent, where the server asks for no API keys:"
        " that of the Authorization header.",
    )
    max_new_tokens: int | None = Field(
        default=None, description="Absent: as many as the server's token limit leaves room for."
    )
    temperature: float | None = Field(default=None, description="0: greedy.")
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    do_sample: bool | None = None
    seed: int | None = Field(default=None, description="0 to 2^64 - 1; absent: a random one.")
    stop: list[str] | None = None
    ignore_eos_token: bool | None = None
    truncate: int | None = Field(
        default=None, description="Keep so many of the prompt's last tokens."
    )
    return_full_text: bool | None = None
    return_k_alternatives: int | None = None
    top_n_tokens: int | None = Field(
        default=None, description="TGI's name of return_k_alternatives; answered in top_tokens."
    )
    decoder_input_details: bool | None = None
    details: bool | None = Field(
        default=None,
        description="Whether the answer has details; the last event of a stream always has.",
    )
    step_details: bool | None = Field(
        default=None,
        description="Whether the events of a stream say what was guessed so far, what of it was"
        " right, and which guesses were wrong.",
    )
    response_format: ResponseFormatField | None = None
    grammar: GrammarField | None = None
    best_of: int | None = None
    logit_bias: dict[str, float] | None = Field(default=None, description="By token id.")
    apply_chat_template: bool | None = Field(
        default=None, description="Take `inputs` for what a user says in a conversation."
    )
    watermark: bool | None = Field(default=None, description="Watermarks are not supported.")
    speculation: SpeculationField | None = None

    def parameters(self) -> Parameters:
        return Parameters(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            do_sample=bool(self.do_sample),
            seed=self.seed,
            stop=tuple(self.stop or ()),
            ignore_eos_token=bool(self.ignore_eos_token),
            truncate=self.truncate,
            return_full_text=bool(self.return_full_text),
            return_k_alternatives=self.return_k_alternatives or self.top_n_tokens,
            decoder_input_details=bool(self.decoder_input_details),
            details=bool(self.details),
            response_format=self._format(),
            best_of=self.best_of,
            logit_bias=logit_bias(self.logit_bias),
        )

    def _format(self) -> ResponseFormat | None:
        if self.grammar is not None:
            if self.response_format is not None:
                raise InvalidArgument(
                    "`grammar` cannot be given beside `response_format`", "parameters.grammar"
                )
            kind = "json_schema" if self.grammar.type == "json" else self.grammar.type
            return response_format(kind, self.grammar.value)
        wanted = self.response_format
        return None if wanted is None else response_format(wanted.type, wanted.schema_)


class GenerateBody(Strict):
    inputs: str = Field(description="The prompt.")
    parameters: ParametersField | None = None
    speculation: SpeculationField | None = Field(
        default=None, description="May stand here or in `parameters`."
    )

    def request(self, api_token: str | None) -> GenerateRequest:
        """``api_token`` is that of a request which brings none itself.

        Raises InvalidArgument for fields that exclude each other.
        """
        wanted = self.parameters or ParametersField()
        if wanted.watermark:
            raise InvalidArgument("`watermark` is not supported", "parameters.watermark")
        if self.speculation is not None and wanted.speculation is not None:
            raise InvalidArgument("`speculation` is given twice", "speculation")
        chat, merged = bool(wanted.apply_chat_template), wanted.merged_adapters
        return GenerateRequest(
            inputs="" if chat else self.inputs,
            messages=(Message("user", self.inputs),) if chat else (),
            adapter_id=wanted.adapter_id,
            adapter_source=wanted.adapter_source,
            adapter_revision=wanted.adapter_revision,
            api_token=wanted.api_token or api_token,
            merged_adapters=merged.merged() if merged is not None else None,
            parameters=wanted.parameters(),
            speculation=replace(
                speculation(self.speculation or wanted.speculation),
                show_rejected=bool(wanted.step_details),
            ),
        )


class CompatibleBody(GenerateBody):
    """As LoRAX's and TGI's own clients send it to ``/``."""

    stream: bool | None = None


class TokenizeBody(Strict):
    inputs: str
    add_special_tokens: bool | None = Field(default=None, description="Absent: true.")


class LoadBody(Strict):
    adapter_id: str = Field(min_length=1)
    adapter_source: Literal["hub", "local", "s3"] | None = None
    adapter_revision: str | None = None
    api_token: str | None = None
    wait: bool | None = Field(default=None, description="Answer when it is loaded. Absent: true.")
