"""What the operator's own interpreters run, confined: the standard library, numpy, and a model's own packages."""
