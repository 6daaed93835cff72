"""The wire forms of OpenAI's and Anthropic's routes: what they answer, for the OpenAPI document and the tests that hold to it.

Answers are rendered as plain dictionaries where they are made; nothing is built or checked through these classes on a
request's way.
"""
