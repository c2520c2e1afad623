"""Detection of the part of a prompt that a text encoder of fixed length cuts."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

QUOTED = 300  # characters of what was not read that a note shows


@dataclass(frozen=True)
class TextReader:
    """One text encoder of a model that cuts long prompts.

    Args:
        name: For notes, such as "T5".
        tokenizer: Its tokenizer.
        length: Tokens that are read, those of the template and special ones among them.
        template: Puts a prompt into what the encoder was trained to read; as it is by default.
    """

    name: str
    tokenizer: Any
    length: int
    template: Callable[[str], str] = str

    def dropped(self, text: str) -> str:
        """The words at the end that are not read, or read in part; empty if all are read."""
        if not text.strip():
            return ""
        whole = self.template(text)
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=fast, truncation=False, verbose=False)
        kept = self.length - self.tokenizer.num_special_tokens_to_add()
        if len(encoded.input_ids) <= kept:
            return ""
        place = whole.rfind(text.strip())
        if not fast or place < 0:  # no places of tokens, or a template that rewrites the text
            return str(self.tokenizer.decode(encoded.input_ids[kept:], skip_special_tokens=True)).strip()
        end = place + len(text.strip())
        start = max(encoded["offset_mapping"][kept][0], place)
        while start > place and not whole[start - 1].isspace():
            start -= 1
        return whole[start:end].strip()


def cut_notes(readers: Sequence[TextReader], texts: dict[str, str]) -> list[str]:
    """A sentence for each text and encoder that does not read all of it, quoting what it does not.

    Args:
        readers: Of a model.
        texts: What they are called, such as "prompt", and what is given to the model.
    """
    notes = []
    for what, text in texts.items():
        dropped = {reader: words for reader in readers if (words := reader.dropped(text))}
        whole = [reader.name for reader in readers if reader not in dropped]
        seen = {(reader.name, words): reader for reader, words in dropped.items()}
        for (name, words), reader in seen.items():
            others = f" {' and '.join(dict.fromkeys(whole))} reads all of it." if whole else " Shorten it, the important first."
            quoted = textwrap.shorten(words, QUOTED, placeholder=" ...")
            notes.append(
                f"The {what} is longer than the {reader.length} tokens that {name} reads, which leaves out: '{quoted}'.{others}"
            )
    return notes
