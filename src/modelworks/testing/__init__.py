"""For authors of capabilities: a run without a kernel, tiny data, and the inherited contract suite.

`modelworks.testing.contract_suite` needs pytest and is therefore not imported here.
"""

from modelworks.testing.fake_run import Checkpoint, FakeRun, LogPoint, ProgressPoint, Saved

__all__ = ["Checkpoint", "FakeRun", "LogPoint", "ProgressPoint", "Saved"]
