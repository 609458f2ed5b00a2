#!/usr/bin/env python3
"""Writes the tables of tokenizers/unicode_tables.h and tokenizers/normal_tables.h, as the libraries
inside Hugging Face `tokenizers` have them: the general category of each character and some scripts
(of its regular expressions), the characters that its added tokens with single_word treat as part of
a word, and the decompositions and combining classes and lower case of its normalizers.

    pip install tokenizers && python3 scripts/unicode_tables.py
"""
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

FOLDER = Path(__file__).resolve().parent.parent / "tokenizers"
# Surrogates (D800-DFFF) are not characters, and `tokenizers` does not accept them.
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
SCRIPTS = ("Arabic Armenian Bengali Bopomofo Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Han Hangul "
           "Hebrew Hiragana Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Sinhala Tamil Telugu Thai "
           "Tibetan").split()


def members(pattern):
    """The code points matched by a one-character pattern, in order."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    between = "a" if pattern == r"\p{Cc}" else "\x01"
    found = []
    for i in range(0, len(CODE_POINTS), 4096):
        block = CODE_POINTS[i:i + 4096]
        # with a character that does not match between all others, a piece of one other character is a match
        for piece, _ in split.pre_tokenize_str(between + between.join(map(chr, block)) + between):
            if len(piece) == 1 and piece != between:
                found.append(ord(piece))
    return found


def isolated_by(step):
    """The code points that a pre-tokenizer of the library makes pieces of, by its own tables."""
    return [c for c in CODE_POINTS if len(step.pre_tokenize_str(f"a{chr(c)}a")) == 3]


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


def category_runs():
    """Runs of one category: length << 5 | category."""
    category = {c: "Cs" for c in range(0xD800, 0xE000)}
    for name in CATEGORIES:
        if name not in ("Cn", "Cs"):
            category.update((c, name) for c in members(rf"\p{{{name}}}"))
    runs = []
    for c in range(0x110000):
        k = CATEGORIES.index(category.get(c, "Cn"))
        if not runs or runs[-1][1] != k:
            runs.append([0, k])
        runs[-1][0] += 1
    return [length << 5 | k for length, k in runs]


def decompositions():
    """(code point, code points it becomes, compatibility): canonical ones as the pair or the one
    character of the first step, others complete."""
    nfd, nfc, nfkd = normalizers.NFD(), normalizers.NFC(), normalizers.NFKD()
    found = []
    for c in CODE_POINTS:
        if 0xAC00 <= c < 0xD7A4:  # Hangul syllables are computed
            continue
        canonical, compatible = nfd.normalize_str(chr(c)), nfkd.normalize_str(chr(c))
        if canonical != chr(c):
            first = nfc.normalize_str(canonical[:-1])
            assert len(first) <= 1 or nfc.normalize_str(canonical) != chr(c), hex(c)
            step = first + canonical[-1] if len(first) == 1 else canonical
            found.append((c, [ord(x) for x in step], False, nfc.normalize_str(step) == chr(c)))
        if compatible != nfd.normalize_str(chr(c)):
            found.append((c, [ord(x) for x in compatible], True, False))
    return found


def decomposition_numbers():
    """Entries of: distance << 7 | length << 2 | composes << 1 | compatibility; the code points."""
    numbers, last = [], 0
    for c, to, compatible, composes in decompositions():
        assert len(to) < 32
        numbers += [(c - last) << 7 | len(to) << 2 | composes << 1 | compatible, *to]
        last = c
    return numbers


def combining_runs():
    """Runs of one combining class that is not 0: distance, then length << 8 | class."""
    nfd = normalizers.NFD()
    lowest, high = "\u0334", "\u0345"  # classes 1 and 240
    runs, end = [], 0
    for c in CODE_POINTS:
        if nfd.normalize_str(high + chr(c)) == high + chr(c) and nfd.normalize_str(chr(c) + lowest) == chr(c) + lowest:
            continue
        if nfd.normalize_str(chr(c)) != chr(c):
            continue
        k = unicodedata.combining(chr(c))
        assert k, f"Python's unicodedata does not know U+{c:04X}"
        if runs and end == c and runs[-1] & 255 == k:
            runs[-1] += 256
        else:
            runs += [c - end, 256 | k]
        end = c + 1
    return runs


def lower_numbers():
    """Distance << 2 | length, then the lower case."""
    lowercase = normalizers.Lowercase()
    numbers, last = [], 0
    for c in CODE_POINTS:
        lower = lowercase.normalize_str(chr(c))
        if lower != chr(c):
            assert len(lower) < 4
            numbers += [(c - last) << 2 | len(lower), *map(ord, lower)]
            last = c
    return numbers


def table(name, numbers, kind="uint16_t"):
    assert max(numbers) < (1 << int(kind[4:6]))
    lines = [""]
    for number in numbers:
        word = f"{number},"
        if len(lines[-1]) + 1 + len(word) > 96:
            lines.append("")
        lines[-1] += " " + word if lines[-1] else word
    return f"static const {kind} {name}[] = {{\n" + "".join(f"    {line}\n" for line in lines) + "};\n"


def write(name, text, *tables):
    guard = f"TOKENIZERS_{name.upper()}_H"
    comment = "".join(f"// {line}\n" for line in text.strip().split("\n"))
    (FOLDER / f"{name}.h").write_text(f"{comment}#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
                                      f"// clang-format off\n{''.join(tables)}// clang-format on\n\n#endif\n")


def write_unicode():
    letters = members(r"\p{L}")
    words = sorted(set(word_characters()) - set(letters))
    # above U+40000 there are only the variation selectors E0100-E01EF
    assert [c for c in words if c >= 0x40000] == list(range(0xE0100, 0xE01F0))
    names = "enum {\n    " + ", ".join(f"CATEGORY_{name.upper()}" for name in CATEGORIES) + ", CATEGORIES };\n"
    lines = [""]
    for word in names.replace("enum {\n    ", "").split(" "):
        if len(lines[-1]) + len(word) > 94:
            lines.append("")
        lines[-1] += word + " "
    names = "enum {\n" + "".join(f"    {line.rstrip()}\n" for line in lines)
    scripts = [f"UNICODE_{name.upper()}" for name in SCRIPTS]
    own = {"Tokenizers_Punctuation": isolated_by(pre_tokenizers.Punctuation()),
           "Tokenizers_Digits": isolated_by(pre_tokenizers.Digits(True))}
    rows = "".join(f'    {{"{name}", {table_name},\n     sizeof {table_name} / sizeof *{table_name}}},\n'
                   for name, table_name in zip([*SCRIPTS, *own], [*scripts, *(f"UNICODE_{name.upper()}" for name in own)]))
    write("unicode_tables", """
unicode_tables.h: what kind of character each code point is, as in the libraries that Hugging
Face `tokenizers` uses; by scripts/unicode_tables.py.""",
          "// General categories.\n", names,
          '\nstatic const char UNICODE_CATEGORY_NAMES[] =\n    "' + "".join(CATEGORIES) + '"; // two letters each\n',
          "\n// Runs of one category from U+0000 up: length << 5 | category.\n",
          table("UNICODE_CATEGORIES", category_runs(), "uint32_t"),
          "\n// Parts of words that are no letters. Here and below: alternately the length of a gap and of a\n"
          "// run of members, from U+0000 up.\n",
          table("UNICODE_WORDS", gaps_and_runs([c for c in words if c < 0x40000])),
          "\n// Scripts, and what the pre-tokenizers Punctuation and Digits isolate, by older tables.\n",
          *(table(table_name, gaps_and_runs(members(rf"\p{{{name}}}")), "uint32_t") for name, table_name in zip(SCRIPTS, scripts)),
          *(table(f"UNICODE_{name.upper()}", gaps_and_runs(found), "uint32_t") for name, found in own.items()),
          "static const struct {\n    const char *name;\n    const uint32_t *lengths;\n    uint32_t count;\n"
          "} UNICODE_SCRIPTS[] = {\n", rows, "};\n")


def write_normal():
    write("normal_tables", """
normal_tables.h: decompositions, combining classes and lower case of Unicode, as the normalizers
of Hugging Face `tokenizers` have them; by scripts/unicode_tables.py.""",
          "// distance from the last code point << 7 | length << 2 | 2: composes again | 1: compatibility; then\n"
          "// the code points it becomes: one step for canonical ones, all steps for compatibility.\n",
          table("UNICODE_DECOMPOSITIONS", decomposition_numbers(), "uint32_t"),
          "\n// Combining classes that are not 0: the distance from the end of the last run, then length << 8 |\n"
          "// class.\n",
          table("UNICODE_COMBINING", combining_runs(), "uint32_t"),
          "\n// Lower case: distance from the last code point << 2 | length; then the code points it becomes.\n",
          table("UNICODE_LOWER", lower_numbers(), "uint32_t"))


if __name__ == "__main__":
    write_unicode()
    write_normal()
