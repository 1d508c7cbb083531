"""caption by BLIP, for images that came without one: the modality of side-car captions, made by a network.

Beam search without chance, so that a photo has one caption. A configuration enables this instead of the side-cars.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from pydantic import Field

from labelers.captioner import Captioner
from labelers.core.labeler import Licence
from labelers.core.networks import NetworkParams
from labelers.core.pixels import Preparation


class BlipParams(NetworkParams):
    """prompt: how every caption begins, kept in it. beams: of the search. max_tokens: the longest caption."""

    prompt: str = ""
    beams: int = Field(3, ge=1, le=16)
    max_tokens: int = Field(40, ge=1, le=256)


class BlipCaption(Captioner):
    """One English sentence about each photo."""

    name = "blip_caption"
    version = 1
    backend = "BLIP base, COCO captions (transformers)"
    weights = {"model": "hf:Salesforce/blip-image-captioning-base@82a37760796d32b1411fe092ab5d4e227313294b"}
    licence = Licence("Apache-2.0", "BSD-3-Clause")
    architecture = "BlipForConditionalGeneration"
    compiled = "vision_model"
    prepare = Preparation(
        384, 384, resample=Image.Resampling.BICUBIC,
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    )  # fmt: skip
    Params = BlipParams

    def run(self, pixels: Any) -> Any:
        p, prompt = self.params, None
        if p.prompt:
            # generate() drops the last token, which it takes for the end of a sentence, and sets the first.
            ids = self._tokenizer(p.prompt, return_tensors="pt").input_ids
            prompt = ids.repeat(len(pixels), 1).to(self.device)
        return self.network.generate(
            pixels, input_ids=prompt, num_beams=p.beams, max_new_tokens=p.max_tokens, do_sample=False
        )
