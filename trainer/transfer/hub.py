"""The encoder for transformers: importing this module makes AutoModel and AutoConfig know its folders.

    import trainer.transfer.hub
    model = AutoModel.from_pretrained(folder)
    features = model(tok_rgb=ids).last_hidden_state

No remote code: the folder holds safetensors and JSON, and the class comes from this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trainer.atomic import as_readable
from trainer.transfer.encoder import MODEL_TYPE, Encoder


class ManymodalEncoderConfig(PretrainedConfig):
    """streams: those of trainer.streams, as JSON."""

    model_type = MODEL_TYPE

    def __init__(
        self, hidden_size: int = 192, num_hidden_layers: int = 4, num_attention_heads: int = 3,
        streams: list[dict[str, Any]] | None = None, made_from: dict[str, Any] | None = None, **rest: Any,
    ) -> None:  # fmt: skip
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = (
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
        )
        self.streams, self.made_from = streams or [], made_from or {}
        super().__init__(**rest)


class ManymodalEncoder(PreTrainedModel):
    """Tokens of one or several streams, by name, to features; pooled is their mean over what is real."""

    config_class = ManymodalEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "tok_rgb"

    def __init__(self, config: ManymodalEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder.of_config(config.to_dict())
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """The positions, which are in no file; everything else is."""
        if isinstance(module, Encoder):
            for name, table in module.fixed_places().items():
                getattr(module, name).copy_(table)

    def forward(self, real: dict[str, Tensor] | None = None, **streams: Tensor) -> BaseModelOutputWithPooling:
        features, mask = self.encoder(streams, real)
        weight = mask[..., None].to(features.dtype)
        pooled = (features * weight).sum(1) / weight.sum(1).clamp(min=1)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=pooled)


HOW = """# The encoder of {made}

    import trainer.transfer.hub  # of manymodal: makes AutoModel know this folder, without remote code
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained("this folder")
    features = encoder({names}).last_hidden_state

Each argument holds the token ids (batch, tokens) of one stream, as a data set's token shards have them; any of them may be
left out.
"""

AutoConfig.register(MODEL_TYPE, ManymodalEncoderConfig)
AutoModel.register(ManymodalEncoderConfig, ManymodalEncoder)


def export(encoder: Encoder, folder: str, made_from: dict[str, Any]) -> None:
    """Write the folder that AutoModel.from_pretrained reads."""
    config = ManymodalEncoderConfig(
        **{k: v for k, v in encoder.config().items() if k != "model_type"}, made_from=made_from
    )
    model = ManymodalEncoder(config)
    model.encoder.load_state_dict(encoder.state_dict())
    model.save_pretrained(folder)
    names = ", ".join(f"{stream.name}=ids" for stream in encoder.streams)
    (Path(folder) / "README.md").write_text(HOW.format(made=made_from.get("model", ""), names=names), encoding="utf-8")
    as_readable(Path(folder), "README.md")
