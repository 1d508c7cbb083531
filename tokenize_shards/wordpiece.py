"""The text vocabulary every sequence shares: fixed ids in the layout of 4M, then word pieces fitted on captions.

Layout (ids): [PAD] 0, [UNK] 1, [SOS] 2, [EOS] 3, sentinels [S_0]..[S_199] at 4..203, coordinate tokens v0=0..v0=999
at 204..1203, v1= from 1204, v2= from 2204, v3= from 3204, the 80 COCO classes (alphabetical) at 4204..4283, word pieces
from 4284; the first of those are the words of the grammars. Text can never produce a control token: the pre-tokeniser
cuts at brackets and "=", so "[EOS]" in a caption is a few ordinary pieces.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer

PAD, UNK, SOS, EOS = 0, 1, 2, 3
SENTINEL, SENTINELS = 4, 200  # id of [S_0], and how many there are
COORDINATE, BINS, AXES = 204, 1000, 4  # id of v0=0, values an axis has, axes
CLASS = COORDINATE + AXES * BINS  # id of the first COCO class
KEYWORDS = ("human", "pose", "none", "point", "polygon", "global", "shape", "camera")
MAX_VOCAB = 30000
MOST_WORDS = 3_000_000  # that pieces are merged from
MAX_WORD = 100  # longer words are cut, so that none is [UNK] for its length

# fmt: off
COCO_CLASSES = (
    "airplane", "apple", "backpack", "banana", "baseball bat", "baseball glove", "bear", "bed", "bench",
    "bicycle", "bird", "boat", "book", "bottle", "bowl", "broccoli", "bus", "cake", "car", "carrot", "cat",
    "cell phone", "chair", "clock", "couch", "cow", "cup", "dining table", "dog", "donut", "elephant",
    "fire hydrant", "fork", "frisbee", "giraffe", "hair drier", "handbag", "horse", "hot dog", "keyboard",
    "kite", "knife", "laptop", "microwave", "motorcycle", "mouse", "orange", "oven", "parking meter", "person",
    "pizza", "potted plant", "refrigerator", "remote", "sandwich", "scissors", "sheep", "sink", "skateboard",
    "skis", "snowboard", "spoon", "sports ball", "stop sign", "suitcase", "surfboard", "teddy bear",
    "tennis racket", "tie", "toaster", "toilet", "toothbrush", "traffic light", "train", "truck", "tv",
    "umbrella", "vase", "wine glass", "zebra",
)
# fmt: on
WORDS = CLASS + len(COCO_CLASSES)  # id of the first word piece

# Every character of these blocks has a piece, as a word's start and inside a word: no Latin text is ever [UNK].
_BLOCKS = (
    (0x21, 0x7F), (0xA1, 0x250), (0x2BB, 0x2BD), (0x1E00, 0x1F00), (0x2010, 0x2028), (0x2030, 0x205F),
    (0x2070, 0x2095), (0x20A0, 0x20C1), (0x2100, 0x2190), (0xFB00, 0xFB07),
)  # fmt: skip


def coordinate(axis: int, value: int) -> int:
    """Id of the token `v<axis>=<value>`, axis 0..3, value 0..999. ValueError outside."""
    if not (0 <= axis < AXES and 0 <= value < BINS):
        raise ValueError(f"there is no coordinate token v{axis}={value}; axes are 0..{AXES - 1}, values 0..{BINS - 1}")
    return COORDINATE + axis * BINS + value


def split_coordinate(token: int) -> tuple[int, int] | None:
    """(axis, value) of a coordinate token, or None for any other id."""
    if not COORDINATE <= token < CLASS:
        return None
    axis, value = divmod(token - COORDINATE, BINS)
    return axis, value


@lru_cache(maxsize=1)
def reserved() -> tuple[str, ...]:
    """The fixed part of the vocabulary, ids 0..WORDS-1, as text."""
    control = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(SENTINELS))]
    return (*control, *(f"v{axis}={value}" for axis in range(AXES) for value in range(BINS)), *COCO_CLASSES)


@lru_cache(maxsize=1)
def _normalizer() -> BertNormalizer:
    from tokenizers.normalizers import BertNormalizer

    return BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)


def normalise(text: str) -> str:
    """What of a text survives tokens: lower case, no accents, no control characters, spaces round CJK."""
    return str(_normalizer().normalize_str(text.encode("utf-8", "ignore").decode()))  # lone surrogates are dropped


def _is_punctuation(char: str) -> bool:
    """As BERT's pre-tokeniser has it: such a character is a word of its own."""
    return (char.isascii() and not char.isalnum()) or unicodedata.category(char).startswith("P")


def _single(chars: Iterable[str]) -> list[str]:
    """Pieces for single characters: as the start of a word, and, where it can be, inside one."""
    return [piece for c in sorted(set(chars)) for piece in ((c,) if _is_punctuation(c) else (c, f"##{c}"))]


@lru_cache(maxsize=1)
def base_pieces() -> tuple[str, ...]:
    """The word pieces every fitted vocabulary starts with: grammar words, then single characters of Latin text."""
    text = " ".join(chr(point) for start, end in _BLOCKS for point in range(start, end))
    return (*KEYWORDS, *_single(c for c in normalise(text) if not c.isspace()))


class WordPiece:
    """Text to ids and back. `pieces`: the vocabulary from id WORDS on, as BERT writes it (`##ing` continues a word)."""

    def __init__(self, pieces: Sequence[str]) -> None:
        names = (*reserved(), *pieces)
        self.ids = {name: i for i, name in enumerate(names)}
        if len(self.ids) != len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"vocabulary: {len(twice)} pieces occur twice or are reserved, e.g. {twice[:5]}")
        if len(names) > MAX_VOCAB:
            raise ValueError(f"vocabulary: {len(names)} entries; at most {MAX_VOCAB} are allowed")
        missing = [word for word in KEYWORDS if word not in self.ids]
        if missing:
            raise ValueError(f"vocabulary: the words {missing} of the grammars are not whole pieces; add them")
        self.names = names

    @property
    def vocab(self) -> int:
        """Number of ids, control and coordinate tokens included."""
        return len(self.names)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The word pieces, from id WORDS on; what the constructor takes."""
        return self.names[WORDS:]

    @cached_property
    def digest(self) -> str:
        """sha256 of the vocabulary in hex: equal digests mean equal ids."""
        return sha256("\n".join(self.names).encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The `tokenizers` object; its JSON is what `save` writes, for any other program to load."""
        from tokenizers import Tokenizer, decoders, models
        from tokenizers.pre_tokenizers import BertPreTokenizer, FixedLength
        from tokenizers.pre_tokenizers import Sequence as Steps

        made = Tokenizer(models.WordPiece(vocab=self.ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD))
        made.normalizer = _normalizer()
        made.pre_tokenizer = Steps([BertPreTokenizer(), FixedLength(length=MAX_WORD)])
        made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
        return made

    def keyword(self, word: str) -> int:
        """Id of a grammar word. KeyError where it is not a whole piece."""
        return self.ids[word]

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """The first `limit` ids of the text. A character without a piece is [UNK] by itself, not its whole word."""
        text = normalise(text)
        strange = {c for c in text if not c.isspace() and c not in self.ids}
        for char in strange:
            text = text.replace(char, f" {char} ")
        return list(self.tokenizer.encode(text).ids[:limit])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids. Control tokens, coordinates and ids outside are left out, [UNK] is U+FFFD. Never raises."""
        text = ""
        for token in ids:
            if token == UNK:
                text += " \ufffd"
            elif CLASS <= token < len(self.names):
                piece = self.names[token]
                text += piece[2:] if piece.startswith("##") and len(piece) > 2 else f" {piece}"
        return _tidy(text.strip())

    def to_json(self) -> str:
        """The tokenizer.json of the `tokenizers` library; equal vocabularies give equal text."""
        return str(self.tokenizer.to_str(pretty=True))

    @classmethod
    def from_json(cls, text: str) -> WordPiece:
        """Reads tokenizer.json of ours or of 4M. ValueError where the fixed part is not in the layout above."""
        parsed = json.loads(text)
        vocab = dict(parsed["model"]["vocab"]) | {t["content"]: t["id"] for t in parsed.get("added_tokens", ())}
        names = sorted(vocab, key=lambda name: vocab[name])
        if [vocab[name] for name in names] != list(range(len(names))):
            raise ValueError("vocabulary: ids are not 0..n-1, each once")
        fixed = reserved()
        for i, (found, wanted) in enumerate(zip(names, fixed, strict=False)):
            if found != wanted:
                raise ValueError(f"vocabulary: id {i} is {found!r} where the 4M layout has {wanted!r}")
        if len(names) < len(fixed):
            raise ValueError(f"vocabulary: {len(names)} entries, fewer than the {len(fixed)} of the 4M layout")
        return cls(names[len(fixed) :])

    def save(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> WordPiece:
        """Reads what `save` wrote. ValueError, naming the file, for anything else."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a vocabulary in the 4M layout: {error}") from error

    @classmethod
    def from_vocab_file(cls, path: Path, vocab_size: int = MAX_VOCAB) -> WordPiece:
        """Takes the pieces of a BERT vocab.txt (one a line, in order) after our own, up to vocab_size ids in all."""
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        taken = set(reserved()) | set(base_pieces())
        usable = [line for line in lines if line and line not in taken and not re.fullmatch(r"\[.+\]", line)]
        room = max(0, vocab_size - WORDS - len(base_pieces()))
        return cls((*base_pieces(), *list(dict.fromkeys(usable))[:room]))

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int = MAX_VOCAB, min_frequency: int = 2) -> WordPiece:
        """Learns pieces from texts (none will do). The same texts, in any order, give the same vocabulary.

        min_frequency: a piece is merged from two where they meet at least so often. ValueError for a vocab_size too
        small for the fixed part and the single characters.
        """
        words = _count_words(texts)
        base = list(base_pieces())
        known = set(base)
        letters: Counter[str] = Counter()
        for word, count in words.items():
            letters.update({c: count for c in word if c not in known})
        room = vocab_size - WORDS - len(base)
        if room < 0 or vocab_size > MAX_VOCAB:
            raise ValueError(f"vocab_size is {vocab_size}; use {WORDS + len(base)} to {MAX_VOCAB}")
        seldom_last = sorted(letters, key=lambda c: (-letters[c], c))[: min(1000, room // 2)]
        base += _single(seldom_last)
        learned = _merge(words, (*reserved(), *base), vocab_size, min_frequency)
        return cls((*base, *learned))


def _count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs after normalising and cutting at spaces and punctuation."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    cut = BertPreTokenizer()
    words = (word for text in texts for word, _ in cut.pre_tokenize_str(normalise(text)))
    return Counter(word for word in words if len(word) <= MAX_WORD)


def _merge(words: Counter[str], base: Sequence[str], vocab_size: int, min_frequency: int) -> list[str]:
    """The pieces the WordPiece trainer adds to `base`, in the order it learned them.

    The trainer numbers `##x` pieces in the order of a randomly seeded hash map, and breaks ties between merges by
    number. Handing it every single-character piece as a special token fixes the numbers, and with them the result.
    """
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import WhitespaceSplit

    known = set(base)
    # The trainer is given each word as often as it occurs: of a large corpus, in proportion.
    scale = min(1.0, MOST_WORDS / max(1, sum(words.values())))
    spelled = {
        w: max(1, round(n * scale))
        for w, n in words.items()
        if all(p in known for p in (w[0], *(f"##{c}" for c in w[1:])))
    }
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(base), show_progress=False
    )
    made.train_from_iterator((" ".join([w] * n) for w, n in sorted(spelled.items())), trainer)
    found = made.get_vocab()
    return sorted((name for name in found if name not in known), key=lambda name: found[name])


def _tidy(text: str) -> str:
    """Puts punctuation where people write it. The result has the same ids: words are cut at punctuation anyway."""
    text = re.sub(r"(?<=\w) (['’/-]) (?=\w)", r"\1", text)
    text = re.sub(r"(?<=\d) ([.,:]) (?=\d)", r"\1", text)
    text = re.sub(r" ([,.!?;:%)\]}’”])", r"\1", text)
    return re.sub(r"([(\[{“]) ", r"\1", text)
