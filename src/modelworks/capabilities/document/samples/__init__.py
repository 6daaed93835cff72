"""Questions and answers that a language model learns from, made of passages: each answer is supported by a passage it cites."""
