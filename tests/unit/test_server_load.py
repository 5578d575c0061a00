"""The load that an inference server tells, from the text that it shows Prometheus."""

from __future__ import annotations

import pytest

from tests.inference_server import SGLANG_METRICS, VLLM_METRICS
from tollgate.domain.server_load import ServerLoad, parse


def load(server: str, running: int, waiting: int, cache: float | None) -> ServerLoad:
    return ServerLoad(server=server, running=running, waiting=waiting, cache_used=cache)


def test_vllms() -> None:
    assert parse(VLLM_METRICS) == load("vLLM", 3, 1, 0.4213)


def test_sglangs_of_a_model_on_two_gpus_is_counted_once() -> None:
    assert parse(SGLANG_METRICS) == load("SGLang", 14, 20, 0.74)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["vllm:num_requests_running 2", "vllm:num_requests_waiting 0"], load("vLLM", 2, 0, None)),
        (
            [
                'vllm:num_requests_running{engine="0"} 2.0',
                'vllm:num_requests_running{engine="1"} 3.0 1770000000000',
                'vllm:kv_cache_usage_perc{engine="0"} 0.2',
                'vllm:kv_cache_usage_perc{engine="1"} 0.9',
            ],
            load("vLLM", 5, 0, 0.9),
        ),
        (
            ['vllm:num_requests_running{model_name="a b} \\"c\\", d"} 1e1', "vllm:gpu_cache_usage_perc{} 0.5"],
            load("vLLM", 10, 0, 0.5),
        ),
        (
            [
                'sglang:num_running_reqs{priority="",tp_rank="0"} 14.0',
                'sglang:num_running_reqs{priority="0",tp_rank="0"} 9.0',
                'sglang:num_running_reqs{priority="1",tp_rank="0"} 5.0',
            ],
            load("SGLang", 14, 0, None),
        ),
        (
            ['sglang:num_running_reqs{dp_rank="0"} 1', 'sglang:num_running_reqs{dp_rank="1"} 2'],
            load("SGLang", 3, 0, None),
        ),
        (["vllm:num_requests_running NaN", "vllm:num_requests_running_total 7"], None),
        (["go_goroutines 7", "", "# HELP x", "}{", "<html>vllm:num_requests_running</html>"], None),
        ([], None),
    ],
    ids=["no labels", "two engines", "odd labels", "priorities", "data parallel", "no number", "others", "nothing"],
)
def test_forms(lines: list[str], expected: ServerLoad | None) -> None:
    assert parse("\n".join(lines)) == expected
