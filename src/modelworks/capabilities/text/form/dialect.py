"""How models write calls of tools, and where they think: told by their chat templates, since nothing else says it.

Sources: the templates of Qwen and Hermes (`<tool_call>`), of Mistral (`[TOOL_CALLS]`, from its eleventh tokenizer on with
`[ARGS]`) and of Llama 3 (one JSON object, with the names that the template's own instruction gives).
"""

from __future__ import annotations

from dataclasses import dataclass

THINK, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The texts around names and arguments: `opens lead (before_name NAME before_arguments {…} after) between (…) closes`."""

    #: Begins the calls wherever it stands; where it is empty, an answer that begins like `before_name` is a call.
    opens: str
    lead: str
    before_name: str
    before_arguments: str
    after: str
    #: Before each further call; None: there is only one.
    between: str | None
    closes: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be tokens of their own."""
        return tuple(each for each in ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]") if each in self._all)

    @property
    def _all(self) -> str:
        return " ".join((self.opens, self.before_arguments, self.after, self.between or ""))


_HERMES = Dialect("<tool_call>", "", '\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n<tool_call>")
_MISTRAL = Dialect("[TOOL_CALLS]", "[", '{"name": "', '", "arguments": ', "}", ", ", "]")
_MISTRAL_SPACED = Dialect("[TOOL_CALLS]", " [", '{"name": "', '", "arguments": ', "}", ", ", "]")
_MISTRAL_NAMED = Dialect("[TOOL_CALLS]", "", "", "[ARGS]", "", "[TOOL_CALLS]")
_LLAMA = Dialect("", "", '{"name": "', '", "parameters": ', "}", None)


def dialect_of(template: str | None) -> Dialect | None:
    """The dialect that a chat template renders calls in; None where it renders none, or in a way that is not known here."""
    text = template or ""
    if "[TOOL_CALLS]" in text:
        if "[ARGS]" in text:
            return _MISTRAL_NAMED
        return _MISTRAL_SPACED if "[TOOL_CALLS] [" in text else _MISTRAL
    if "<tool_call>" in text:
        # Qwen's coders write arguments as a kind of XML.
        return None if "<function=" in text else _HERMES
    return _LLAMA if '"parameters": ' in text and ("ipython" in text or "python_tag" in text) else None
