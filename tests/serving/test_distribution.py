"""What the whole server samples follows the model's exact distribution (issue 2, must show 5)."""

from __future__ import annotations

import asyncio

import pytest

from lorax_spec import AsyncClient, embedded
from lorax_spec.types import Response
from tests.cli.processes import Server
from tests.properties.distribution import (
    FALSE_ALARM,
    LENGTH,
    TEMPERATURE,
    TOP_K,
    exact_cells,
    p_value,
)

pytestmark = pytest.mark.slow

SAMPLES, AT_ONCE = 3000, 64


def test_the_servers_samples_follow_the_exact_distribution(server: Server) -> None:
    prompt = embedded.workloads()["code"][3]["prompt"]

    async def sample() -> list[Response]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with AsyncClient(server.grpc) as client:

            async def one(seed: int) -> Response:
                async with gate:
                    return await client.generate(
                        prompt,
                        adapter_id="demo/medusa",
                        max_new_tokens=LENGTH,
                        temperature=TEMPERATURE,
                        top_k=TOP_K,
                        seed=seed,
                        ignore_eos_token=True,
                        speculation={"num_tokens": 8},
                    )

            return await asyncio.gather(*map(one, range(SAMPLES)))

    answers = asyncio.run(sample())
    assert sum(answer.details.skipped_tokens for answer in answers) > SAMPLES // 10
    samples = [tuple(token.id for token in answer.details.tokens) for answer in answers]
    assert p_value(samples, exact_cells(prompt)) > FALSE_ALARM
