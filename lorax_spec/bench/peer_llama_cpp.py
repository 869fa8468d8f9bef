"""llama.cpp beside us: a script for a Python with ``llama-cpp-python`` and ``gguf``.

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

import gguf
import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def main(model: Path, scratch: Path, lookup: int) -> None:
    path = scratch / "model.gguf"
    if not path.exists():
        write_gguf(model, path)
    llama = llama_cpp.Llama(
        str(path),
        n_ctx=2048,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=lookup) if lookup else None,
    )
    say({"version": llama_cpp.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        llama.reset()  # or it would go on from the prompt it has just seen
        started, cpu_started = time.perf_counter(), time.process_time()
        tokens: list[int] = []
        for token in llama.generate(asked["ids"], top_k=1, temp=0.0, repeat_penalty=1.0):
            tokens.append(int(token))
            if token in asked["ends"] or len(tokens) == asked["new_tokens"]:
                break
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        say({"tokens": tokens, "seconds": seconds, "cpu_seconds": cpu})


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def write_gguf(model: Path, path: Path) -> None:
    """A Llama folder of transformers as float32 GGUF."""
    config = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_vocabulary(writer, json.loads((model / "tokenizer.json").read_text()))
    writer.add_eos_token_id(config["eos_token_id"][0])
    for name, tensor in read_safetensors(model / "model.safetensors"):
        if name.endswith("q_proj.weight"):
            tensor = interleaved(tensor, heads)
        if name.endswith("k_proj.weight"):
            tensor = interleaved(tensor, kv_heads)
        writer.add_tensor(gguf_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: Any, tokenizer: dict[str, Any]) -> None:
    """Only the ids matter here: what is compared is fed token ids."""
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()} | special
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[index] for index in range(len(tokens))])
    writer.add_token_types([3 if index in special else 1 for index in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def gguf_name(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of rotated pairs beside each other, where transformers has them half a head apart."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def read_safetensors(path: Path) -> list[tuple[str, np.ndarray]]:
    """All tensors of a bfloat16 or float32 file, as float32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = []
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, np.float32)
        tensors.append((name, values.reshape(entry["shape"])))
    return tensors


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
