"""Embeddings and reranking: encoders that turn texts into vectors, and such as judge a document by a query."""
