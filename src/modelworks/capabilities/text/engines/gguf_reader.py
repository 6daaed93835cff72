"""Run as a program: let OpenVINO GenAI read a GGUF file and store its graph beside it.

In a process of its own because the library's reader ends the process on some files it does not expect.
"""

from __future__ import annotations

import sys


def main(file: str) -> int:
    """Store `openvino_model.xml` and `.bin` beside `file`; 0 when they are there, 1 with the reason on stderr."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 8
    # Opening is what stores the graph. The precision is named because the device's own choice, bf16, fails with one thread.
    properties = {"enable_save_ov_model": True, "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    try:
        openvino_genai.ContinuousBatchingPipeline(file, scheduler, "CPU", properties)
    except (RuntimeError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(lines[-1] if lines else type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
