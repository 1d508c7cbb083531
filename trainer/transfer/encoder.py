"""The encoder alone: a plain torch module over the tokens of some modalities, in a folder of safetensors and JSON.

    encoder = Encoder.load(folder)
    features, real = encoder({"tok_rgb": ids})      # ids: int64 (B, 196); features: (B, 196, d)

It holds the embedding tables of its own modalities only, and no decoder. It equals the encoder of the model it was taken
from up to the projection that the decoder's context goes through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import ConfigError, DamageError
from pipeline.records import canonical_json
from trainer.blocks import EncoderBlock, Norm, sincos_1d, sincos_2d
from trainer.model import Model, Size
from trainer.streams import PAD, Stream

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MODEL_TYPE = "manymodal_encoder"


class Encoder(nn.Module):
    """streams: what it reads. size: of the model; its decoder depth is not used."""

    def __init__(self, streams: Sequence[Stream], size: Size) -> None:
        super().__init__()
        self.streams, self.size, dim = tuple(streams), size, size.dim
        self.tables = nn.ModuleDict()
        self.inputs = nn.ModuleDict()
        for s in self.streams:
            if s.values:
                self.inputs[s.name] = nn.Linear(s.width, dim, bias=s.kind == "embedding")
            elif s.table not in self.tables:
                self.tables[s.table] = nn.Embedding(s.vocab, dim)
        self.modality = nn.Embedding(len(self.streams), dim)
        self.places = nn.ParameterDict(
            {s.name: nn.Parameter(torch.zeros(s.positions, dim)) for s in streams if s.learned}
        )
        self.blocks = nn.ModuleList(EncoderBlock(dim, size.heads) for _ in range(size.encoder))
        self.norm = Norm(dim)
        for name, table in self.fixed_places().items():
            self.register_buffer(name, table, persistent=False)
        self.apply(_init)

    def fixed_places(self) -> dict[str, Tensor]:
        """Sin-cos positions of the streams that have them, by the name of their buffer; recomputed, never saved."""
        return {
            _buffer(s): sincos_2d(*s.grid, self.size.dim) if s.grid else sincos_1d(s.positions, self.size.dim)
            for s in self.streams
            if not s.learned
        }

    def place(self, stream: Stream) -> Tensor:
        """Positions of a stream, (T, d)."""
        return self.places[stream.name] if stream.learned else getattr(self, _buffer(stream))

    def forward(
        self, inputs: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """inputs: int64 (B, T) tokens of each stream, padded with anything; float (B, T, width) of value streams. real:
        bool (B, T) of streams with padding or samples that lack them, all True where absent. At least one stream. chosen:
        int64 (B, m), numbers of the tokens of each sample that are looked at, all where None.

        Features (B, n, d), streams side by side in the encoder's order, and which of them are real, bool (B, n).
        """
        parts, masks = [], []
        for index, s in enumerate(self.streams):
            if s.name not in inputs:
                continue
            x = inputs[s.name]
            mask = real[s.name] if real is not None and s.name in real else x.new_ones(x.shape[:2], dtype=torch.bool)
            own = self.inputs[s.name](x) if s.values else self.tables[s.table](torch.where(mask, x, PAD))
            parts.append((own + self.place(s)[: x.shape[1]] + self.modality.weight[index]) * mask[..., None])
            masks.append(mask)
        x, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        if chosen is not None:
            x, mask = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, chosen)
        seen = None if bool(mask.all()) else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x), mask

    # -- from a model, and to a folder

    @staticmethod
    def of_model(model: Model, names: Sequence[str]) -> Encoder:
        """The encoder of a trained model, for some of its streams. ConfigError for a stream it does not know."""
        known = {s.name: i for i, s in enumerate(model.streams)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(f"{unknown[0]}: the model was not trained on it. It knows: {', '.join(known)}.")
        numbers = [known[name] for name in dict.fromkeys(names)]
        encoder = Encoder([model.streams[i] for i in numbers], model.size)
        with torch.no_grad():
            for i in numbers:
                s = model.streams[i]
                if s.values:
                    encoder.inputs[s.name].load_state_dict(model.inputs[s.name].state_dict())
                else:
                    first = int(model.table_start[i])
                    table = model.table.weight[first : first + s.vocab]
                    encoder.tables[s.table].load_state_dict({"weight": table})
                if s.learned:
                    encoder.places[s.name].copy_(model.learned_in[s.name])
            encoder.modality.weight.copy_(model.modality.weight[numbers])
            encoder.blocks.load_state_dict(model.encoder.state_dict())
            encoder.norm.load_state_dict(model.encoder_norm.state_dict())
        return encoder

    def config(self) -> dict[str, Any]:
        """What `load` needs beside the weights, in the form transformers' configs have."""
        return {
            "model_type": MODEL_TYPE, "architectures": ["ManymodalEncoder"], "hidden_size": self.size.dim,
            "num_hidden_layers": self.size.encoder, "num_attention_heads": self.size.heads,
            "streams": [s.to_json() for s in self.streams],
        }  # fmt: skip

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write weights and config. about: what it was made from, kept in the config."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_bytes(canonical_json({**self.config(), "made_from": dict(about or {})}))

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> Encoder:
        """An untrained encoder of that config."""
        size = Size(config["num_hidden_layers"], 0, config["hidden_size"], config["num_attention_heads"])
        return Encoder([Stream.from_json(s) for s in config["streams"]], size)

    @staticmethod
    def load(folder: Path) -> Encoder:
        """ConfigError where there is none, DamageError where weights and config do not belong together."""
        try:
            config = json.loads((folder / CONFIG).read_bytes())
            encoder = Encoder.of_config(config)
            encoder.load_state_dict(load_file(folder / WEIGHTS))
        except FileNotFoundError:
            raise ConfigError(f"{folder}: holds no encoder. `manymodal transfer` writes one.") from None
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamageError(f"{folder}: is no whole encoder ({' '.join(str(error).split())[:200]})") from error
        return encoder.eval()


def _buffer(stream: Stream) -> str:
    return "place_" + stream.name.replace("@", "_")


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
