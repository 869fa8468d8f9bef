"""Compiling grammars beside the step loop, each once."""

from __future__ import annotations

import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorax_spec.errors import InternalError, InvalidArgument, LoraxSpecError, Unimplemented
from lorax_spec.types import ResponseFormat

if TYPE_CHECKING:
    import xgrammar

    from lorax_spec.engine.grammar.constraint import Constraint
    from lorax_spec.engine.grammar.vocabulary import Vocabulary

#: Two, so that a slow grammar does not hold up the others.
_THREADS = 2
#: Seconds after which requests wait for a grammar no longer.
PATIENCE = 30.0
#: Compiled grammars that are kept for later requests.
_KEPT, _KEPT_BYTES = 256, 256 * 2**20


class Compiling:
    """A grammar on its way: neither ready nor failed at first, then one of the two.

    ``ready`` and ``error`` may be read from any thread at any time.
    """

    def __init__(self, wanted: ResponseFormat) -> None:
        self.wanted = wanted
        self.grammar: xgrammar.CompiledGrammar | None = None
        self.error: LoraxSpecError | None = None
        #: A thread has taken it up.
        self.begun = False

    @property
    def ready(self) -> bool:
        return self.grammar is not None

    @property
    def settled(self) -> bool:
        return self.ready or self.error is not None


class Grammars:
    """The grammars of one model's requests.

    One thread asks, by ``compile`` and ``start``.  Nothing is loaded before the first request.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: int,
        eos: frozenset[int],
        device: torch.device,
        wake: Callable[[], None],
    ) -> None:
        """``vocabulary`` counts the columns of the logits; ``wake`` is called, on any thread, after
        a grammar became ready or failed."""
        self._folder = folder
        self._size = vocabulary
        self._eos = eos
        self._device = device
        self._wake = wake
        self._jobs: queue.SimpleQueue[Compiling | None] = queue.SimpleQueue()
        self._known: OrderedDict[ResponseFormat, Compiling] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._loading = threading.Lock()
        self._loaded: tuple[Vocabulary, xgrammar.GrammarCompiler] | None = None

    def compile(self, wanted: ResponseFormat | None) -> Compiling | None:
        """Ask for a grammar; returns at once.  None where the text is free.

        Its error may be InvalidArgument, which names ``parameters.response_format``, or
        Unimplemented, where this model or installation cannot follow grammars.
        """
        if wanted is None or wanted.type == "text":
            return None
        job = self._known.get(wanted)
        if job is None or (job.error is not None and not job.begun):
            self._forget_oldest()
            job = self._known[wanted] = Compiling(wanted)
            self._jobs.put(job)
            timer = threading.Timer(PATIENCE, self._give_up, [job])
            timer.daemon = True
            timer.start()
            if len(self._threads) < _THREADS:
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
        self._known.move_to_end(wanted)
        return job

    def start(self, job: Compiling, generated: tuple[int, ...]) -> Constraint:
        """The constraint of a request whose grammar is ready, after ``generated`` tokens.

        Raises:
            InvalidArgument: these tokens do not follow the grammar.
        """
        from lorax_spec.engine.grammar.constraint import Constraint

        assert job.grammar is not None and self._loaded is not None
        constraint = Constraint(job.grammar, self._loaded[0], self._device)
        if constraint.follow_all(generated) < len(generated):
            raise _invalid("forbids the tokens generated so far")
        return constraint

    def close(self) -> None:
        """Compile nothing any more."""
        for _ in self._threads:
            self._jobs.put(None)

    def _forget_oldest(self) -> None:
        """Make room for one more; what is still compiled is not forgotten."""
        size = sum(job.grammar.memory_size_bytes for job in self._known.values() if job.grammar)
        for wanted, job in list(self._known.items()):
            if len(self._known) < _KEPT and size < _KEPT_BYTES:
                return
            if job.settled:
                del self._known[wanted]
                size -= job.grammar.memory_size_bytes if job.grammar else 0

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.settled:
                continue
            job.begun = True
            try:
                job.grammar = self._compiled(job.wanted)
            except LoraxSpecError as error:
                job.error = error
            except Exception as error:
                job.error = InternalError(f"compiling `response_format` failed: {error!r}")
            self._wake()

    def _give_up(self, job: Compiling) -> None:
        if not job.settled:
            job.error = _invalid(f"takes longer than {PATIENCE:.0f} seconds to compile")
            self._wake()

    def _compiled(self, wanted: ResponseFormat) -> xgrammar.CompiledGrammar:
        try:
            from lorax_spec.engine.grammar.formats import compile_format
        except ImportError as error:
            raise Unimplemented(f"`response_format` needs xgrammar: {error}") from error
        vocabulary, compiler = self._load()
        grammar = compile_format(compiler, wanted)
        from lorax_spec.engine.grammar.constraint import Constraint

        if not Constraint(grammar, vocabulary, torch.device("cpu")).choices():
            raise _invalid("permits no text that this model can write")
        return grammar

    def _load(self) -> tuple[Vocabulary, xgrammar.GrammarCompiler]:
        """The model's tokens as xgrammar sees them, and a compiler for them; read once."""
        import xgrammar

        from lorax_spec.engine.grammar.vocabulary import read_vocabulary

        with self._loading:
            if self._loaded is None:
                vocabulary = read_vocabulary(self._folder, self._size, self._eos)
                threads = max(1, min(4, (os.cpu_count() or 1) // 2))
                compiler = xgrammar.GrammarCompiler(
                    vocabulary.info, max_threads=threads, cache_enabled=False
                )
                self._loaded = vocabulary, compiler
            return self._loaded


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"`response_format` {problem}", "parameters.response_format")
