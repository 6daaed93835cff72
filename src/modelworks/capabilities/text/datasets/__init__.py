"""Data sets of text: formats, validation, cleaning. Light: nothing heavy is imported before it is needed."""

from modelworks.capabilities.text.datasets.reading import read_chat, read_preferences, read_prompts
from modelworks.capabilities.text.datasets.samples import ChatSample, Fault, PreferenceSample, PromptSample, TextSample

__all__ = [
    "ChatSample",
    "Fault",
    "PreferenceSample",
    "PromptSample",
    "TextSample",
    "read_chat",
    "read_preferences",
    "read_prompts",
]
