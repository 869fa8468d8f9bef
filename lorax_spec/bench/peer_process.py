"""Another engine in a process, and a Python, of its own, as one side of a comparison.

Other engines want other versions of what we need; so each has a script that runs under whichever
Python has it, and answers token ids with token ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lorax_spec.bench.pairs import Run
from lorax_spec.bench.workload import Prompt
from lorax_spec.errors import Unavailable

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class PeerProcess:
    """Runs ``script`` until the end of a with block.

    Raises Unavailable, with the script's last line of complaint, where it does not start.
    """

    def __init__(
        self, python: str, script: Path, model: str, scratch: str, lookup: int, ends: Sequence[int]
    ) -> None:
        self._ends = list(ends)
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (ours until exit)
        self._process = subprocess.Popen(
            # Isolated: the script's folder holds a statistics.py that is not the library's.
            [python, "-I", str(script), model, scratch, str(lookup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, **_ONE_THREAD},
        )
        self.version = str(self._hear()["version"])

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        answers = [self._ask(prompt) for prompt in prompts]
        return Run(
            tuple(tuple(answer["tokens"]) for answer in answers),
            sum(answer["seconds"] for answer in answers),
            sum(answer["cpu_seconds"] for answer in answers),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def _ask(self, prompt: Prompt) -> Any:
        asked = {"ids": prompt.ids, "new_tokens": prompt.new_tokens, "ends": self._ends}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        """The next line that is an answer; libraries print what they like besides."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"'):
                return json.loads(line)
        self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").splitlines()
        raise Unavailable(lines[-1] if lines else f"ended with status {self._process.returncode}")
