"""The networks of 4M's published tokenizers, with the tensor names of their checkpoints.

Image-like (config `enc_type` vit_*): a ViT encoder with biases and exact GELU, a cosine codebook, a ViT decoder.
Vectors (`enc_type` BottleneckMLP/B_<blocks>-Wi_<width>): an MLP with memory codes, one codebook a head. Checkpoints with
a diffusion decoder are encoders here: what their decoders hold is refused by name, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = {"s": (512, 8, 8), "b": (768, 12, 12), "l": (1024, 24, 16)}  # width, blocks, heads


class Attention(nn.Module):
    """Full self-attention of x (B, T, d), one matrix for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """fc2(act(fc1 x)), hidden size 4 d."""

    def __init__(self, dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), act(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Blocks over a grid of latents (B, d, rows, columns), with added positions and a last MLP (`post_mlp`)."""

    pos_emb: Tensor

    def __init__(self, size: str, grid: int, post_mlp: bool) -> None:
        super().__init__()
        dim, depth, heads = SIZES[size]
        self.register_buffer("pos_emb", torch.zeros(1, dim, grid, grid))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm_mlp = nn.LayerNorm(dim, eps=1e-6) if post_mlp else None
        self.post_mlp = Mlp(dim, nn.Tanh) if post_mlp else None

    def trunk(self, x: Tensor) -> Tensor:
        """(B, d, rows, columns) -> (B, rows * columns, d)."""
        if x.shape[-2:] != self.pos_emb.shape[-2:]:
            raise ValueError(f"{tuple(x.shape[-2:])} patches where the checkpoint has {tuple(self.pos_emb.shape[-2:])}")
        x = (x + self.pos_emb).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        if self.post_mlp is not None and self.norm_mlp is not None:
            x = x + self.post_mlp(self.norm_mlp(x))
        return x


class Encoder(Vit):
    """(B, channels, H, W) -> (B, d, rows, columns). patch 1: one token a cell of a feature map."""

    def __init__(self, size: str, channels: int, patch: int, grid: int, post_mlp: bool) -> None:
        super().__init__(size, grid, post_mlp)
        self.proj = nn.Conv2d(channels, SIZES[size][0], patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return self.trunk(x).transpose(1, 2).unflatten(2, x.shape[-2:])


class Decoder(Vit):
    """(B, d, rows, columns) -> (B, channels, H, W); the pixels of a patch in the order channel, row, column."""

    def __init__(self, size: str, channels: int, patch: int, grid: int, post_mlp: bool) -> None:
        super().__init__(size, grid, post_mlp)
        self.patch = patch
        self.out_proj = nn.Linear(SIZES[size][0], channels * patch * patch)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.out_proj(self.trunk(x)).transpose(1, 2).flatten(2)
        return F.fold(patches, tuple(side * self.patch for side in x.shape[-2:]), self.patch, stride=self.patch)


class CosineCodebook(nn.Module):
    """codes x dim unit vectors; the token is the code of greatest cosine, the latent that code as it stands."""

    embed: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(codes, dim))

    def index(self, z: Tensor) -> Tensor:
        """(B, dim, rows, columns) -> ids (B, rows * columns)."""
        flat = F.normalize(z.flatten(2).transpose(1, 2), dim=-1)
        return (flat @ F.normalize(self.embed, dim=-1).T).argmax(-1)

    def lookup(self, ids: Tensor, shape: tuple[int, int]) -> Tensor:
        return self.embed[ids].transpose(1, 2).unflatten(2, shape)


class HeadMatrices(nn.Module):
    """One d x d matrix a head."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, dim, dim))


class MemoryCodes(nn.Module):
    """heads x codes x d: keys and values are two matrices of the codes; the token of a head is its best key."""

    def __init__(self, heads: int, codes: int, dim: int) -> None:
        super().__init__()
        each = dim // heads
        self.codes = nn.Parameter(torch.zeros(heads, codes, each))
        self.to_k, self.to_v = HeadMatrices(heads, each), HeadMatrices(heads, each)

    def index(self, z: Tensor) -> Tensor:
        """(B, dim, 1, 1) -> ids (B, heads)."""
        query = z.flatten(1).unflatten(1, (len(self.codes), -1))
        return torch.einsum("bhd,hcd->bhc", query, self.codes @ self.to_k.weight).argmax(-1)

    def lookup(self, ids: Tensor, shape: tuple[int, int]) -> Tensor:
        values = self.codes @ self.to_v.weight
        return values[torch.arange(len(values)), ids].flatten(1)[:, :, None, None]


class BottleneckBlock(nn.Module):
    """Linear, GELU, linear; hidden size 4 d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class BottleneckMlp(nn.Module):
    """linear_in, residual blocks of LayerNorm, linear, GELU, linear, then linear_out; (B, n, 1, 1) -> (B, m, 1, 1)."""

    def __init__(self, inputs: int, outputs: int, blocks: int, width: int) -> None:
        super().__init__()
        self.linear_in, self.linear_out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.layernorms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.blocks = nn.ModuleList(BottleneckBlock(width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear_in(x.flatten(1))
        for norm, block in zip(self.layernorms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.linear_out(x)[:, :, None, None]


class Network(nn.Module):
    """A published tokenizer: `tokens` of an input, `latents` of tokens, `pixels` of latents (None without a decoder).

    config: the checkpoint's config.json. ValueError for a kind of network it names that is not described above.
    """

    encoder: Encoder | BottleneckMlp
    decoder: Decoder | BottleneckMlp | None

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.channels, latent = int(config["n_channels"]), int(config["latent_dim"])
        if mlp := re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)", config["enc_type"]):
            self.grid = 1
            blocks, inner = int(mlp[1]), int(mlp[2])
            self.encoder = BottleneckMlp(self.channels, inner, blocks, inner)
            self.decoder = BottleneckMlp(inner, self.channels, blocks, inner)
            outer = inner
        else:
            inner, outer = self._vits(config)
        heads = int(config.get("num_codebooks", 1))
        self.quant_proj = nn.Conv2d(inner, latent, 1)
        self.quantize = self._quantiser(str(config["quant_type"]), heads, int(config["codebook_size"]), latent)
        self.post_quant_proj = nn.Conv2d(latent, outer, 1) if self.decoder is not None else None
        self.vocab, self.length = int(config["codebook_size"]), heads if heads > 1 else self.grid**2

    def _vits(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Encoder and decoder of an image-like tokenizer; their widths."""
        patch = int(config["patch_size"])
        self.grid = int(config["image_size"]) // patch
        pixels = patch if config.get("patch_proj", True) else 1
        post = bool(config.get("post_mlp", False))
        size = re.fullmatch(r"vit_([sbl])_enc", str(config["enc_type"]))
        if size is None:
            raise ValueError(f"encoder {config['enc_type']!r} is not known; known: vit_s_enc, vit_b_enc, vit_l_enc")
        self.encoder = Encoder(size[1], self.channels, pixels, self.grid, post)
        back = re.fullmatch(r"vit_([sbl])_dec", str(config.get("dec_type", "")))
        self.decoder = Decoder(back[1], self.channels, pixels, self.grid, post) if back else None
        return SIZES[size[1]][0], SIZES[back[1]][0] if back else 0

    @staticmethod
    def _quantiser(kind: str, heads: int, codes: int, latent: int) -> nn.Module:
        if kind == "memcodes":
            return MemoryCodes(heads, codes, latent)
        if kind == "lucid" and heads == 1:
            made = nn.Module()
            made._codebook = CosineCodebook(codes, latent)
            return made
        raise ValueError(f"quantiser {kind!r} with {heads} codebook(s) is not known; known: lucid with 1, memcodes")

    @property
    def codebook(self) -> CosineCodebook | MemoryCodes:
        found = getattr(self.quantize, "_codebook", self.quantize)
        assert isinstance(found, CosineCodebook | MemoryCodes)
        return found

    def tokens(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> ids (B, length)."""
        return self.codebook.index(self.quant_proj(self.encoder(x)))

    def latents(self, ids: Tensor) -> Tensor:
        """Ids (B, length) -> quantised latents (B, latent_dim, rows, columns)."""
        return self.codebook.lookup(ids, (self.grid, self.grid))

    def pixels(self, latents: Tensor) -> Tensor:
        """Quantised latents -> (B, channels, H, W). ValueError where the checkpoint's decoder is not a ViT."""
        if self.decoder is None or self.post_quant_proj is None:
            raise ValueError("this tokenizer was published with a diffusion decoder, which is not imported")
        return self.decoder(self.post_quant_proj(latents))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's tensors. ValueError names what is missing or left over."""
        statistics = ("quantize._codebook.initted", "quantize._codebook.cluster_size")
        skipped = ("decoder.", "post_quant_proj.") if self.decoder is None else ()
        mine = {k: v for k, v in tensors.items() if k not in statistics and not k.startswith(skipped)}
        missing, left = self.load_state_dict(mine, strict=False)
        if missing or left:
            raise ValueError(
                f"the checkpoint lacks {missing[:3]} and has {left[:3]} that this network has no place for"
            )
