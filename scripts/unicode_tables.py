#!/usr/bin/env python3
"""Prints the tables of tokenizers/unicode.h: the letters (L*) and numbers (N*) of the regex engine
in Hugging Face tokenizers, and the other characters that its added tokens with single_word treat as
part of a word. A table lists, from U+0000 up, alternately the lengths of gaps and of runs of
members.

    pip install tokenizers && python3 scripts/unicode_tables.py
"""
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

# Surrogates (D800-DFFF) are not characters, and `tokenizers` does not accept them.
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(pattern):
    """The code points matched by a one-character pattern, in order."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = []
    for i in range(0, len(CODE_POINTS), 4096):
        block = CODE_POINTS[i:i + 4096]
        # with U+0001 between all characters, a piece of one other character is a match
        for piece, _ in split.pre_tokenize_str("\x01".join(map(chr, block)) + "\x01"):
            if len(piece) == 1 and piece != "\x01":
                found.append(ord(piece))
    return found


def word_characters():
    """The code points next to which an added token with single_word does not match, in order."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("T", single_word=True)])
    found = []
    for i in range(0, len(CODE_POINTS), 4096):
        block = CODE_POINTS[i:i + 4096]
        encoded = tokenizer.encode_batch([f"T{chr(c)}" for c in block])
        found += [c for c, encoding in zip(block, encoded) if 1 not in encoding.ids]
    return found


def gaps_and_runs(code_points):
    lengths, end = [], 0
    for c in code_points:
        if not lengths or c > end:
            lengths += [c - end, 0]
        lengths[-1] += 1
        end = c + 1
    return lengths


def table(name, lengths):
    assert max(lengths) < 65536
    lines = [""]
    for number in lengths:
        word = f"{number},"
        if len(lines[-1]) + 1 + len(word) > 96:
            lines.append("")
        lines[-1] += " " + word if lines[-1] else word
    return f"static const uint16_t {name}[] = {{\n" + "".join(f"    {line}\n" for line in lines) + "};"


if __name__ == "__main__":
    letters = members(r"\p{L}")
    words = sorted(set(word_characters()) - set(letters))
    # above U+40000 there are only the variation selectors E0100-E01EF
    assert [c for c in words if c >= 0x40000] == list(range(0xE0100, 0xE01F0))
    print(table("UNICODE_LETTERS_", gaps_and_runs(letters)))
    print(table("UNICODE_NUMBERS_", gaps_and_runs(members(r"\p{N}"))))
    print(table("UNICODE_WORDS_", gaps_and_runs([c for c in words if c < 0x40000])))
