"""caption by BLIP and t5_caption: real code on tiny checkpoints with tokenizers of their own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.blip_caption import BlipCaption
from labelers.caption import CAPTION
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
from labelers.florence_caption import QUESTIONS, FlorenceCaption, image_tokens
from labelers.t5_caption import T5_CAPTION, T5Caption
from tests.labelers import tiny, tiny_more


def says_something_about_every_image(labeler: Any, samples: list[Sample]) -> None:
    """At most six tokens, the same whatever an image's neighbours are."""
    rows = labeler.label(samples)
    assert len(rows) == len(samples)
    words = [row["caption"] for row in rows]
    for text in words:
        if isinstance(text, Null):
            assert text.reason == "the network said nothing"
        else:
            CAPTION.check(text)
            assert len(text.split()) <= 6
    assert any(isinstance(text, str) for text in words)
    assert labeler.label(samples[2:3])[0] == rows[2]  # whatever its neighbours are


def test_blip_says_something_about_every_image(tmp_path: Path) -> None:
    labeler, samples = tiny.ready(BlipCaption, tiny_more.blip(tmp_path), max_tokens=6), tiny.odd_samples()
    says_something_about_every_image(labeler, samples)


def test_a_prompt_begins_the_caption(tmp_path: Path) -> None:
    labeler = tiny.ready(BlipCaption, tiny_more.blip(tmp_path), prompt="a man in the", max_tokens=6)
    (row,) = labeler.label([Sample("a", tiny.photo())])
    assert row["caption"].startswith("man in the")  # BLIP's first token is its own


def samples(*captions: str | Null) -> list[Sample]:
    empty = np.zeros((0, 0, 3), np.uint8)
    return [Sample(str(i), empty, labels={"caption": caption}) for i, caption in enumerate(captions)]


def test_t5_has_a_vector_a_token_and_no_padding(tmp_path: Path) -> None:
    labeler = tiny.ready(T5Caption, tiny_more.t5(tmp_path), max_tokens=7)
    asked = samples(
        "a red cup", "two cats sleep on a red cup and the man looks", Null("no_caption"), "two cats sleep", "cup"
    )
    rows = [row["t5_caption"] for row in labeler.label(asked)]
    assert rows[2] == Null("no caption: no_caption")
    del rows[2]
    for label in rows:
        T5_CAPTION.check(label)
        assert T5_CAPTION.encode(T5_CAPTION.decode(T5_CAPTION.encode(label))) == T5_CAPTION.encode(label)
    assert [label.shape for label in rows] == [(4, 32), (7, 32), (4, 32), (2, 32)]  # words and the end sign; 7 at most
    assert labeler.label(asked[:1])[0]["t5_caption"].tobytes() == rows[0].tobytes()
    assert labeler.label([Sample("x", np.zeros((0, 0, 3), np.uint8))])[0]["t5_caption"] == Null(
        "no caption: not labelled"
    )


def test_t5_is_transformers_own(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, T5EncoderModel

    folder = tiny_more.t5(tmp_path)
    (row,) = tiny.ready(T5Caption, folder).label(samples("a man in dark coat ."))
    ids = AutoTokenizer.from_pretrained(folder)("a man in dark coat .", return_tensors="pt").input_ids
    with torch.inference_mode():
        wanted = T5EncoderModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state[0]
    np.testing.assert_allclose(row["t5_caption"], wanted, atol=2e-3)


def test_wrong_embeddings_are_refused_and_shown() -> None:
    label = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float16)
    assert T5_CAPTION.compare(label, label) == {"cosine": 1.0}
    assert -1 <= T5_CAPTION.compare(label, label[:3])["cosine"] < 1
    assert T5_CAPTION.show(label, None).caption == "5 tokens of 32 numbers"
    for bad in (label.astype(np.float32), label[:0], label[0], np.full((2, 3), np.inf, np.float16)):
        with pytest.raises(LabelError, match="t5_caption"):
            T5_CAPTION.check(bad)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_more.t5(tmp_path)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        tiny.ready(T5Caption, folder)


def test_a_tokenizers_own_code_is_not_run(tmp_path: Path) -> None:
    folder, marker = tiny_more.t5(tmp_path), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(ValueError):
        tiny.ready(T5Caption, folder)
    assert not marker.exists()


def test_florence_describes_every_image(tmp_path: Path) -> None:
    labeler, asked = tiny.ready(FlorenceCaption, tiny_more.florence(tmp_path), max_tokens=6), tiny.odd_samples()
    says_something_about_every_image(labeler, asked)


def test_florence_is_asked_as_transformers_own_processor_asks(tmp_path: Path) -> None:
    """The same network through the library: image places, start, question, end; and the answer is what it generates."""
    import torch

    labeler = tiny.ready(FlorenceCaption, tiny_more.florence(tmp_path), detail="detailed", beams=1, max_tokens=5)
    network = labeler.network
    pixels = labeler.pixels(labeler.preparation.resized(tiny.photo())[None])
    places = network.get_image_features(pixel_values=pixels).pooler_output.shape[1]
    asked = torch.tensor([labeler._asked])
    assert (
        (asked == network.config.image_token_id).sum() == places == image_tokens(network.config.vision_config, 64, 64)
    )
    question = labeler._tokenizer(QUESTIONS["detailed"], add_special_tokens=False).input_ids
    assert asked[0, places:].tolist() == [2, *question, 3]
    said, token = [], torch.tensor([[3]])
    for _ in range(5):  # greedy, by hand
        out = network(input_ids=asked, pixel_values=pixels, decoder_input_ids=token)
        best = out.logits[0, -1].argmax() if len(said) < 4 else torch.tensor(3)  # the last one is forced to be the end
        said.append(int(best))
        token = torch.cat([token, best.view(1, 1)], 1)
        if said[-1] == 3:
            break
    (row,) = labeler.label([Sample("a", tiny.photo())])
    wanted = " ".join(labeler._tokenizer.decode(said, skip_special_tokens=True).split())
    assert wanted and row["caption"] == wanted
