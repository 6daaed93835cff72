"""Ways of computing the next token: OpenVINO GenAI in batches, transformers, and processes that speak OpenAI's protocol."""
