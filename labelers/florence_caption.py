"""caption by Florence-2, for images that came without one: one sentence, a few, or a paragraph.

The network is transformers' own class, so the checkpoint must be of the transformers layout (florence-community/...); the
first publication's repository brings Python code of its own, which is never run. Beam search without chance, so that a
photo has one caption. A configuration enables this instead of the side-cars.
"""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image
from pydantic import Field

from labelers.captioner import Captioner
from labelers.core.labeler import Licence
from labelers.core.networks import NetworkParams
from labelers.core.pixels import Preparation

# The network was trained to answer these very sentences.
QUESTIONS = {
    "short": "What does the image describe?",
    "detailed": "Describe in detail what is shown in the image.",
    "paragraph": "Describe with a paragraph what is shown in the image.",
}


class FlorenceParams(NetworkParams):
    """detail: how much it says. beams: of the search. max_tokens: the longest caption."""

    detail: Literal["short", "detailed", "paragraph"] = "short"
    beams: int = Field(3, ge=1, le=16)
    max_tokens: int = Field(256, ge=1, le=1024)


class FlorenceCaption(Captioner):
    """What each photo shows, in English."""

    name = "florence_caption"
    version = 1
    backend = "Florence-2 base (transformers)"
    weights = {"model": "hf:florence-community/Florence-2-base@main"}
    licence = Licence("Apache-2.0", "MIT")
    architecture = "Florence2ForConditionalGeneration"
    compiled = "model.vision_tower"
    prepare = Preparation(768, 768, resample=Image.Resampling.BICUBIC)
    Params = FlorenceParams

    def setup(self) -> None:
        super().setup()
        tokenizer = self._tokenizer
        question = tokenizer(QUESTIONS[self.params.detail], add_special_tokens=False).input_ids
        # transformers calls what stands for the image one token many times: as many as the network makes of a photo.
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        if start is None or end is None:
            raise ValueError(
                f"{self.files['model']}: its tokenizer has no bos or eos token; fetch the whole checkpoint"
            )
        height, width = self.preparation.target(self.preparation.height, self.preparation.width)
        places = [self.network.config.image_token_id] * image_tokens(self.network.config.vision_config, height, width)
        self._asked = [*places, start, *question, end]

    def run(self, pixels: Any) -> Any:
        import torch

        p = self.params
        asked = torch.tensor([self._asked], device=self.device).repeat(len(pixels), 1)
        return self.network.generate(
            input_ids=asked, attention_mask=torch.ones_like(asked), pixel_values=pixels, num_beams=p.beams,
            max_new_tokens=p.max_tokens, do_sample=False,
        )  # fmt: skip


def image_tokens(config: Any, height: int, width: int) -> int:
    """How many tokens the vision tower makes of an input of that size: one a place of its last map, and their mean."""
    for kernel, stride, margin in zip(config.patch_size, config.patch_stride, config.patch_padding, strict=True):
        height, width = ((side + 2 * margin - kernel) // stride + 1 for side in (height, width))
    return height * width + 1
