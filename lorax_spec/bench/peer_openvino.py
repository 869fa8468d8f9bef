"""OpenVINO GenAI beside us: a script for a Python with ``openvino-genai`` and ``optimum-intel``.

Started by ``peer_process`` with a model folder, a scratch folder and prompt lookup's draft length
(0 for none); knows nothing of lorax_spec.  Says what it is in one JSON line, then answers each
line of JSON with one.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

_FLOAT32_ONE_THREAD = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "INFERENCE_NUM_THREADS": 1,
}


def main(model: Path, scratch: Path, lookup: int) -> None:
    folder = scratch / "openvino"
    if not folder.exists():
        convert(model, folder)
    options: dict[str, Any] = {"prompt_lookup": True} if lookup else {}
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **_FLOAT32_ONE_THREAD, **options)
    say({"version": openvino_genai.__version__.partition("-")[0]})
    for line in sys.stdin:
        asked = json.loads(line)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = asked["new_tokens"]
        config.do_sample = False
        config.apply_chat_template = False
        config.stop_token_ids = set(asked["ends"])
        if lookup:
            config.num_assistant_tokens = lookup
            config.max_ngram_size = 3
        ids = openvino.Tensor(np.array([asked["ids"]], dtype=np.int64))
        started, cpu_started = time.perf_counter(), time.process_time()
        result = pipeline.generate(ids, config)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        tokens = [int(token) for token in result.tokens[0]]
        say({"tokens": tokens, "seconds": seconds, "cpu_seconds": cpu})


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def convert(model: Path, folder: Path) -> None:
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    OVModelForCausalLM.from_pretrained(model, export=True).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    there, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    openvino.save_model(there, folder / "openvino_tokenizer.xml")
    openvino.save_model(back, folder / "openvino_detokenizer.xml")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
