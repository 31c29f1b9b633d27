"""Ids of the original tokenizers, from their own libraries."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.seq1f1b.data import Tokenizer, build_tokenizer
from megatron.seq1f1b.data.tokenizers import TOKENIZER_TYPES
from megatron.seq1f1b.data.tokenizers.gpt2 import is_trained_order
from megatron.seq1f1b.errors import ConfigurationError, DataError
from tests.data.corpora import END, MERGE_FILE, VOCAB_FILE, VOCAB_SIZE

TEXTS = [
    "",
    " ",
    "def main() -> int:\n    return 0\n",
    "it's  we'll THEY'RE 'd\t\t\n\n  x",
    "naïve façade, Straße, Ελληνικά, русский, 日本語 한국어 العربية 🙂👩‍👩‍👧",
    "\x00\x01\x1b\x7f\x85\xa0\u200b\u2028\u3000\ufeff",
    "e\u0301 vs \u00e9; ½ ² ௧ ①",
    "<|endoftext|> is text here",
    "a" * 5000 + " " * 5000 + "b",
    "\r\n\r\n \n  \n",
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
"""Every Unicode character but surrogates."""


def gpt2(vocab_file: Path = VOCAB_FILE, merge_file: Path = MERGE_FILE) -> Tokenizer:
    return build_tokenizer("GPT2BPETokenizer", vocab_file=vocab_file, merge_file=merge_file)


def hugging_face(vocab_file: Path = VOCAB_FILE, merge_file: Path = MERGE_FILE) -> tokenizers.Tokenizer:
    model = tokenizers.models.BPE.from_file(str(vocab_file), str(merge_file))
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


OURS, THEIRS = gpt2(), hugging_face()


@given(any_text)
@settings(max_examples=300)
def test_gpt2_ids_are_those_of_hugging_face(text: str) -> None:
    assert OURS.tokenize(text) == THEIRS.encode(text).ids


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_ids_of_awkward_texts(text: str) -> None:
    ids = OURS.tokenize(text)
    assert ids == THEIRS.encode(text).ids
    assert OURS.tokenize_to_array(text).tolist() == ids
    assert OURS.detokenize(ids) == text


def test_gpt2_numbers() -> None:
    assert (OURS.vocab_size, OURS.eod, OURS.pad) == (VOCAB_SIZE, END, -1)
    assert OURS.unique_identifiers == {"class": "GPT2BPETokenizer", "vocab_size": 1000, "eod": 0}
    assert OURS.detokenize([END]) == "<|endoftext|>"


@pytest.mark.parametrize("unit", [" ", "\n", "\t \n"])
def test_gpt2_million_white_spaces_before_text(unit: str) -> None:
    text = "x" + unit * (1_500_000 // len(unit)) + "y z"
    ids = OURS.tokenize(text)
    assert OURS.detokenize(ids) == text
    short = "x" + unit * (3000 // len(unit)) + "y z"
    assert ids[-2:] == OURS.tokenize(short)[-2:] == THEIRS.encode(short).ids[-2:]


def test_gpt2_cut_at_long_white_space_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.seq1f1b.data.tokenizers import gpt2 as module

    class Failing:
        """Refuses whole texts, as the library refuses a million characters of white space."""

        def __init__(self, encoding: tiktoken.Encoding) -> None:
            self._encoding = encoding
            self._calls = 0

        def encode_to_numpy(self, text: str, *, disallowed_special: tuple[str, ...]) -> np.ndarray:
            self._calls += 1
            if self._calls == 1:
                raise ValueError("too long")
            return self._encoding.encode_to_numpy(text, disallowed_special=disallowed_special)

    space = "[\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"
    monkeypatch.setattr(module, "_LONG_WHITE_SPACE", re.compile(f"{space}{{2,}}(?=[^{space[1:]})"))
    for text in ("a  b", "a \n\n b   c\t\td  ", "  x", "\x1c\x1c y", "a\u3000\u3000b"):
        ours = gpt2()
        ours._codec._encoding = Failing(ours._codec._encoding)  # type: ignore[attr-defined]
        assert ours.tokenize(text) == THEIRS.encode(text).ids


def test_unpaired_surrogates_become_replacement_characters() -> None:
    assert OURS.tokenize("a\ud800b") == OURS.tokenize("a\ufffdb")
    assert OURS.tokenize("\ud83d\ude42") == OURS.tokenize("🙂")


def test_gpt2_vocabulary_numbered_in_another_order(tmp_path: Path) -> None:
    vocabulary = json.loads(VOCAB_FILE.read_text())
    turned = {token: len(vocabulary) - 1 - number for token, number in vocabulary.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(turned))
    ours = gpt2(tmp_path / "vocab.json")
    for text in TEXTS:
        assert ours.tokenize(text) == hugging_face(tmp_path / "vocab.json").encode(text).ids
    assert ours.eod == VOCAB_SIZE - 1


def test_gpt2_merges_that_no_training_makes(tmp_path: Path) -> None:
    """Two ways to one token: tiktoken cannot tell them apart, so it must not be asked."""
    vocabulary = json.loads(VOCAB_FILE.read_text())
    bytes_only = [token for token, number in vocabulary.items() if number < 257]
    merges = [("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c"), ("c", "d")]
    tokens = [*bytes_only, "bc", "abc", "ab", "cd"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges))
    assert not is_trained_order(merges)
    ours = gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    theirs = hugging_face(tmp_path / "vocab.json", tmp_path / "merges.txt")
    for text in ("abc", "abcd", "aabcbcab", "bcd abc"):
        assert ours.tokenize(text) == theirs.encode(text).ids
        assert ours.detokenize(ours.tokenize(text)) == text


Edit = Callable[[str], str]


def edited(tmp_path: Path, *, vocab: Edit = str, merges: Edit = str) -> Tokenizer:
    (tmp_path / "vocab.json").write_text(vocab(VOCAB_FILE.read_text()))
    (tmp_path / "merges.txt").write_text(merges(MERGE_FILE.read_text()))
    return gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"vocab": lambda _: "{"}, "not a vocabulary in JSON"),
        ({"vocab": lambda _: "[]"}, "expected one JSON object"),
        ({"vocab": lambda text: text.replace(":5,", ":6,").replace(": 5,", ": 6,")}, "0 to 999, each once"),
        ({"vocab": lambda text: text.replace("<|endoftext|>", "<|end|>")}, r"no <\|endoftext\|>"),
        ({"vocab": lambda text: text.replace('"!"', '"!!!!!"')}, "1 of the 256 byte letters"),
        ({"merges": lambda _: "#version: 0.2\n"}, "no merges"),
        ({"merges": lambda text: text + "a b c\n"}, r"line 74\d: expected two tokens"),
        ({"merges": lambda text: text + "q zz\n"}, r"line 74\d: 'zz' is not in the vocabulary of 1000"),
    ],
)
def test_gpt2_files_that_do_not_fit(tmp_path: Path, edits: dict[str, Edit], message: str) -> None:
    with pytest.raises(DataError, match=message):
        edited(tmp_path, **edits)


def test_null_tokenizer() -> None:
    tokenizer = build_tokenizer("NullTokenizer", vocab_size=511)
    assert (tokenizer.vocab_size, tokenizer.eod) == (512, 511)
    assert tokenizer.tokenize("0 510  7\n") == [0, 510, 7]
    assert tokenizer.detokenize([0, 510]) == "0 510"
    with pytest.raises(DataError, match="id 511 is outside 0 to 510"):
        tokenizer.tokenize("511")
    with pytest.raises(DataError, match="ids separated by spaces"):
        tokenizer.tokenize("seven")


@given(any_text)
def test_byte_level_round_trip(text: str) -> None:
    tokenizer = build_tokenizer("ByteLevelTokenizer")
    assert tokenizer.tokenize(text) == list(text.encode())
    assert tokenizer.tokenize_to_array(text).tolist() == list(text.encode())
    assert tokenizer.detokenize([*tokenizer.tokenize(text), 300]) == text


def save_hugging_face(folder: Path) -> tokenizers.Tokenizer:
    library = hugging_face()
    library.add_special_tokens(["<|endoftext|>", "<stop>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<stop> $A", special_tokens=[("<stop>", library.token_to_id("<stop>"))]
    )
    library.enable_truncation(5)
    library.save(str(folder / "tokenizer.json"))
    library.no_truncation()
    return library


@pytest.mark.parametrize("is_folder", [True, False])
def test_hugging_face_ids(tmp_path: Path, is_folder: bool) -> None:
    library = save_hugging_face(tmp_path)
    model = tmp_path if is_folder else tmp_path / "tokenizer.json"
    ours = build_tokenizer("HuggingFaceTokenizer", tokenizer_model=model)
    for text in TEXTS:
        assert ours.tokenize(text) == library.encode(text, add_special_tokens=False).ids
    assert (ours.vocab_size, ours.eod) == (VOCAB_SIZE + 1, END)
    assert ours.detokenize(ours.tokenize(TEXTS[4])) == TEXTS[4]


@pytest.mark.parametrize("value", ["<stop>", {"content": "<stop>", "lstrip": False}])
def test_hugging_face_end_is_the_one_its_settings_name(tmp_path: Path, value: object) -> None:
    save_hugging_face(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": value}))
    assert build_tokenizer("HuggingFaceTokenizer", tokenizer_model=tmp_path).eod == VOCAB_SIZE


def test_hugging_face_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is no tokenizer\.json"):
        build_tokenizer("HuggingFaceTokenizer", tokenizer_model=tmp_path)


@pytest.mark.parametrize("name", ["SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer"])
def test_sentencepiece_ids(tmp_path: Path, name: str) -> None:
    lines = (Path(__file__).parent / "corpora.py").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "sp"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    ours = build_tokenizer(name, tokenizer_model=tmp_path / "sp.model")
    assert (ours.vocab_size, ours.eod) == (400, library.eos_id())
    for text in TEXTS:
        assert ours.tokenize(text) == library.encode(text)
    assert ours.detokenize(ours.tokenize("naïve text")) == "naïve text"


def test_sentencepiece_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "sp.model").write_bytes(b"text")
    with pytest.raises(DataError, match="is no SentencePiece model"):
        build_tokenizer("SentencePieceTokenizer", tokenizer_model=tmp_path / "sp.model")


def write_tiktoken(path: Path) -> list[bytes]:
    tokens = [*(bytes([value]) for value in range(256)), b"de", b"def", b" f", b"o" * 2]
    entries = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": str(token)}
        for rank, token in enumerate(tokens)
    ]
    path.write_text(json.dumps(entries))
    return tokens


@pytest.mark.parametrize("pattern", ["v1", "v2"])
def test_tiktoken_ids(tmp_path: Path, pattern: str) -> None:
    tokens = write_tiktoken(tmp_path / "model.json")
    ours = build_tokenizer(
        "TikTokenizer",
        tokenizer_model=tmp_path / "model.json",
        vocab_size=270,
        tiktoken_pattern=pattern,
        tiktoken_num_special_tokens=10,
    )
    library = tiktoken.Encoding(
        "ranks",
        pat_str=ours._core.tokenizer._pat_str,  # type: ignore[attr-defined]
        mergeable_ranks={token: rank + 10 for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    for text in TEXTS:
        assert ours.tokenize(text) == library.encode_ordinary(text)
        assert ours.detokenize(ours.tokenize(text)) == text
    assert (ours.vocab_size, ours.eod) == (270, 2)


def test_tiktoken_vocabulary_that_is_too_small(tmp_path: Path) -> None:
    write_tiktoken(tmp_path / "model.json")
    with pytest.raises(DataError, match="no vocabulary for TikTokenizer with 5000 ids, 1000 of them special"):
        build_tokenizer("TikTokenizer", tokenizer_model=tmp_path / "model.json", vocab_size=5000)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("GPT2BPETokenizer", "--vocab-file"),
        ("HuggingFaceTokenizer", "--tokenizer-model"),
        ("SentencePieceTokenizer", "--tokenizer-model"),
        ("TikTokenizer", "--tokenizer-model"),
        ("NullTokenizer", "--vocab-size"),
    ],
)
def test_missing_flag_is_named(name: str, flag: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--tokenizer-type {name} needs {flag}"):
        build_tokenizer(name)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--merge-file .*none\.txt: no such file"):
        gpt2(merge_file=tmp_path / "none.txt")


def test_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="choose from GPT2BPETokenizer"):
        build_tokenizer("BertTokenizer")
    assert len(TOKENIZER_TYPES) == 8


def test_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    (tmp_path / "sp.model").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"pip install \.\[data\]"):
        build_tokenizer("Llama2Tokenizer", tokenizer_model=tmp_path / "sp.model")
