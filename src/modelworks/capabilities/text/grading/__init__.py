"""Graders at work: what `contract.grading` describes. Light: heavy libraries are imported when a grader needs one."""
