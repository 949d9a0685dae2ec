"""What the generators of modern layouts share: tiny vocabularies, random weights, and how goldens are written.

A helper, not a generator: it is imported by its neighbours under its own top-level name and needs only what each of
them installs anyway (numpy, safetensors, tokenizers). The vocabularies are small but real: words, pieces of words,
single letters, ideographs; what is left out becomes the unknown token.
"""

from __future__ import annotations

import hashlib
import json
import platform
import string
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent / "checkpoints"
GOLDEN = HERE.parent / "golden"

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 32, 2, 2, 64

WORD_LIST = """
    the of and a in to is was for on with by at from that which who what how many where when it its this are be
    were an or first second old new city river book king country people music war house night winter year long late
    token tokens
    query document documents vector score scores match interaction neural retrieval paris france london iphone red big
    mark marks text said written wrote read lost keeps one each every finds best added stands flows mountain sea born
    before after died played again until end thousand nine hundred live does mean good morning you too between under
"""
WORDS = tuple(WORD_LIST.split())
PIECES = ("s", "es", "ed", "ing", "er", "ly", "tion", "al", "on", "an", "en", "in", "re", "un", "ment", "ity")
ACCENTED = "àáâäçèéêëíîïñóôöøřúüěšžı"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщыьэюяМГСР"
ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهويةىأإئء"
IDEOGRAPHS = "北京大学在哪里是中国的一所。？、，"
LONGER = ("北京", "大学", "中国", "Москва", "город", "река", "России", "القاهرة", "مصر", "جامعة")

Weights = dict[str, npt.NDArray[np.float32]]
Rows = npt.NDArray[np.float32]


def texts() -> tuple[dict[str, str], dict[str, str]]:
    """The queries and the documents every generator encodes, by name."""
    read = json.loads((HERE / "texts_modern.json").read_text(encoding="utf-8"))
    return read["queries"], read["documents"]


# --- vocabularies -----------------------------------------------------------------------------------------------------


def wordpiece(folder: Path) -> int:
    """Write an uncased BERT tokenizer as the hub has it (tokenizer.json, vocab.txt, two configs); return its size.

    As in the real vocabulary [PAD] is 0, [unused0] 1 and [unused1] 2.
    """
    words = [w for w in (*WORDS, *(w.lower() for w in LONGER)) if len(w) > 1 and w[0] not in IDEOGRAPHS]
    letters = [*string.ascii_lowercase, *string.digits, *CYRILLIC.lower(), *ARABIC]
    vocabulary = unique(
        [
            *("[PAD]", "[unused0]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
            *(*string.punctuation, "—", "؟", "،"),
            *(*letters, *(f"##{letter}" for letter in letters), *IDEOGRAPHS),
            *(*words, *(f"##{piece}" for piece in PIECES)),
        ]
    )
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary.index(t)) for t in ("[CLS]", "[SEP]")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    names = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    names["unk_token"] = "[UNK]"
    write_json(folder / "special_tokens_map.json", names)
    behaviour = {
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "model_max_length": 512,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    write_json(folder / "tokenizer_config.json", {**names, **behaviour})
    return tokenizer.get_vocab_size()


def byte_pairs(
    folder: Path, special: Sequence[AddedToken], configuration: dict[str, Any], *, template: tuple[str, str] | None
) -> Tokenizer:
    """Write a byte-level BPE tokenizer (ModernBERT, Qwen2): the 256 bytes, then each word letter by letter; return it.

    ``special`` follow the vocabulary in this order; ``template`` is the token before and the one behind a text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {symbol: i for i, symbol in enumerate(alphabet)}, []
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in (*(f" {w}" for w in WORDS), *LONGER, *(w.title() for w in WORDS[:24]), *WORDS[:24]):
        symbols = to_bytes.pre_tokenize_str(text)[0][0]
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocabulary:
                vocabulary[symbols[:end]] = len(vocabulary)
                merges.append((symbols[: end - 1], symbols[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    if template is None:  # Qwen2 splits by its own pattern
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    for token in special:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if template is None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        before, behind = template
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {behind}",
            pair=f"{before} $A {behind} $B {behind}",
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in template],
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {k: v for k, v in configuration.items() if k.endswith("_token")}
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "tokenizer_config.json", configuration)
    if template is None:
        write_json(folder / "vocab.json", vocabulary)
        lines = "".join(f"{left} {right}\n" for left, right in merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    return tokenizer


def unigram(folder: Path, charsmap: bytes) -> int:
    """Write an XLM-R tokenizer as the hub has it: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last; return its size.

    Some marks stand alone and behind the word mark, as in the real vocabulary, some only alone, some not at all.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [f"▁{w}" for w in (*WORDS, *(w.title() for w in WORDS[:24]), *LONGER)]
    marks = [f"▁{mark}" for mark in '("-–#']
    alone = unique([*string.ascii_letters, *string.digits, *ACCENTED, *CYRILLIC, *ARABIC, *IDEOGRAPHS])
    punctuation = [mark for mark in string.punctuation if mark not in "^`~|"]
    pieces: list[tuple[str, float]] = [(token, 0.0) for token in special]
    pieces += [(w, -4.0 - 0.01 * i) for i, w in enumerate(unique(words))]
    pieces += [(w, -5.0) for w in unique([*LONGER, *PIECES]) if len(w) > 1]
    pieces += [("▁", -5.5), *((mark, -6.0) for mark in marks)]
    pieces += [(mark, -6.5) for mark in [*punctuation, "—", "،", "☀"]]
    pieces += [(letter, -9.0 - 0.001 * i) for i, letter in enumerate(alone)]
    if len({piece for piece, _ in pieces}) != len(pieces):
        raise SystemExit("the pieces are not unique")
    pieces.append(("<mask>", 0.0))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names: dict[str, Any] = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    write_json(folder / "special_tokens_map.json", {**names, "mask_token": mask})
    size = tokenizer.get_vocab_size()
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(i): {"content": t, **plain} for i, t in enumerate(special)}
    added[str(size - 1)] = {**mask, "special": True}
    behaviour = {"model_max_length": 8192, "sp_model_kwargs": {}, "tokenizer_class": "XLMRobertaTokenizer"}
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": added,
            **names,
            "mask_token": "<mask>",
            "clean_up_tokenization_spaces": True,
            **behaviour,
        },
    )
    return size


def unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


# --- weights ----------------------------------------------------------------------------------------------------------


class Draw:
    """Weights of a seed, drawn in the order they are asked for, scaled so that texts come out clearly different."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float) -> npt.NDArray[np.float32]:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True, gain: float = 1.5) -> Weights:
        """The weight [rows, columns] and, unless there is none, the bias [rows] of a projection."""
        drawn = {f"{name}.weight": self.normal(rows, columns, scale=gain / columns**0.5)}
        return drawn | ({f"{name}.bias": self.normal(rows, scale=0.1)} if bias else {})

    def norm(self, name: str, size: int, *, bias: bool = True) -> Weights:
        drawn = {f"{name}.weight": 1.0 + self.normal(size, scale=0.2)}
        return drawn | ({f"{name}.bias": self.normal(size, scale=0.1)} if bias else {})

    def bert(self, vocabulary: int, positions: int, types: int) -> Weights:
        """A BERT or (X)LM-R encoder with its pooler, under the names ``BertModel`` and ``XLMRobertaModel`` share."""
        weights = {
            "embeddings.word_embeddings.weight": self.normal(vocabulary, HIDDEN, scale=1.0),
            "embeddings.position_embeddings.weight": self.normal(positions, HIDDEN, scale=0.3),
            "embeddings.token_type_embeddings.weight": self.normal(types, HIDDEN, scale=0.3),
        }
        weights |= self.norm("embeddings.LayerNorm", HIDDEN)
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            for part in ("query", "key", "value"):
                weights |= self.linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
            weights |= self.linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN, gain=0.7)
            weights |= self.norm(f"{layer}.attention.output.LayerNorm", HIDDEN)
            weights |= self.linear(f"{layer}.intermediate.dense", INTERMEDIATE, HIDDEN)
            weights |= self.linear(f"{layer}.output.dense", HIDDEN, INTERMEDIATE)
            weights |= self.norm(f"{layer}.output.LayerNorm", HIDDEN)
        return weights | self.linear("pooler.dense", HIDDEN, HIDDEN)


def bert_config(vocabulary: int, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 128,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocabulary,
    }


# --- files ------------------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_safetensors(path: Path, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"format": "pt"})


def sha256(folder: Path) -> dict[str, str]:
    """The hash of every file in the checkpoint, by its path in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def record(name: str, text: str, ids: Sequence[int], attended: int, rows: Rows) -> dict[str, Any]:
    """One query or document as the peer saw it: ids of all positions, how many of them are attended, rows it kept."""
    return {"name": name, "text": text, "rows": len(rows), "attended": int(attended), "ids": [int(i) for i in ids]}


def write_golden(
    name: str,
    *,
    checkpoint: Path,
    packages: Sequence[str],
    settings: dict[str, Any],
    queries: list[dict[str, Any]],
    documents: list[dict[str, Any]],
    query_rows: Sequence[Rows],
    document_rows: Sequence[Rows],
    scores: Sequence[Sequence[float]],
    more: dict[str, Rows] | None = None,
) -> None:
    """Write ``golden/NAME.json`` and ``golden/NAME.npz``; ``more`` are further arrays of the latter."""
    golden = {
        "python": platform.python_version(),
        "packages": {p: version(p) for p in packages},
        "checkpoint": checkpoint.name,
        "sha256": sha256(checkpoint),
        "settings": settings,
        "queries": queries,
        "documents": documents,
        "scores": [[float(s) for s in row] for row in scores],
    }
    GOLDEN.mkdir(parents=True, exist_ok=True)
    # One line per query, document and row of scores: a change can be read in a diff.
    lines = [f" {json.dumps(k)}: {by_line(v) if isinstance(v, list) else json.dumps(v)}" for k, v in golden.items()]
    path = GOLDEN / f"{name}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    arrays = {f"queries:{i}": rows for i, rows in enumerate(query_rows)}
    arrays |= {f"documents:{i}": rows for i, rows in enumerate(document_rows)} | (more or {})
    wrong = {k for k, rows in arrays.items() if rows.dtype != np.float32 or not np.isfinite(rows).all()}
    if wrong:
        raise SystemExit(f"expected finite float32 rows: {sorted(wrong)}")
    np.savez(GOLDEN / f"{name}.npz", allow_pickle=False, **arrays)
    spread = np.ptp(np.array(golden["scores"]), axis=1)
    print(f"{len(queries)} queries, {len(documents)} documents, least spread of scores {spread.min():.3f}: {path}")


def by_line(items: list[Any]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in items) + "\n ]"
