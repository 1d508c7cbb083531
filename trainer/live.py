"""The page of a run while it goes: one static file that the browser loads again every few seconds.

Loss, held-out loss of each stream beside its guesses, speed, utilisation, waiting. No script and nothing remote.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pipeline.gallery import plots
from pipeline.gallery.cells import duration

PAGE, EVERY_S, MEAN = "live.html", 20.0, "heldout_mean"
STYLE = (Path(plots.__file__).parent / "style.css").read_text(encoding="utf-8")
MORE = """main { max-width: 1080px; margin: 0 auto; padding: 32px 24px; }
dl { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 20px 0 28px; }
dt { color: var(--muted); font-size: 12px; } dd { font-size: 24px; font-weight: 650; letter-spacing: -0.01em; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 18px 20px; margin: 0 0 18px; }
main > section { overflow-x: auto; padding: 18px 20px; }
h1 + .under { margin: 6px 0 0; }
section svg { width: 100%; height: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
meter { width: 120px; }"""


class Live:
    """Writes the page, at most every EVERY_S seconds. title: of the run; about: its model, in a sentence."""

    def __init__(self, path: Path, title: str, about: str) -> None:
        self.path, self.title, self.about, self.said = path, title, about, time.monotonic() - EVERY_S / 2

    def write(
        self, figures: Mapping[str, Any], curve: Sequence[tuple[int, float]], evaluations: Sequence[Mapping[str, Any]],
        *, now: bool = False, going: bool = True,
    ) -> None:  # fmt: skip
        """figures: of the last log line, in words by name. now: even if the last page is fresh. going: reload it."""
        if not now and time.monotonic() - self.said < EVERY_S:
            return
        self.said = time.monotonic()
        aside = self.path.with_name(f".{self.path.name}")
        aside.write_text(page(self.title, self.about, figures, curve, evaluations, going), encoding="utf-8")
        aside.replace(self.path)


def page(
    title: str, about: str, figures: Mapping[str, Any], curve: Sequence[tuple[int, float]],
    evaluations: Sequence[Mapping[str, Any]], going: bool,
) -> str:  # fmt: skip
    """The HTML of a page."""
    reload = Markup('<meta http-equiv="refresh" content="10">') if going else Markup("")
    terms = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(k, v) for k, v in figures.items())
    parts = [Markup("<dl>{}</dl>").format(terms)]
    if curve:
        means = [(e["step"], e[MEAN]) for e in evaluations if MEAN in e]
        plot = plots.training_curve(
            [s for s, _ in curve], [v for _, v in curve], [s for s, _ in means], [v for _, v in means]
        )
        parts.append(Markup("<section><h2>Loss</h2>{}</section>").format(plot))
    if evaluations:
        last = evaluations[-1]
        for what, key in (("New views of known photos", "heldout_views"), ("New photos", "heldout")):
            if last.get(key):
                head = f"{what}: loss at step {last['step']:,}, nats a token"
                parts.append(Markup("<section><h2>{}</h2>{}</section>").format(head, streams(last[key])))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">{reload}'
        f"<title>{escape(title)}</title><style>{STYLE}\n{MORE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1><p class='under'>{escape(about)}</p>"
        f"{Markup('').join(parts)}</main></body></html>"
    )


def streams(heldout: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row a stream: the model's loss beside the guesses that see nothing."""
    head = Markup("<tr><th>tokens</th><th>from</th><th>model</th><th>unigram</th><th>uniform</th><th></th></tr>")
    rows = [
        Markup(
            "<tr><td>{}</td><td>{}</td><td>{:.3f}</td><td>{:.3f}</td><td>{:.3f}</td>"
            '<td><meter min="0" max="{:.3f}" low="{:.3f}" high="{:.3f}" optimum="0" value="{:.3f}"></meter></td></tr>'
        ).format(
            name,
            h["given"],
            h["loss"],
            h["unigram"],
            h["uniform"],
            h["uniform"],
            min(h["unigram"], h["uniform"]),
            h["uniform"],
            min(h["loss"], h["uniform"]),
        )
        for name, h in heldout.items()
    ]
    return Markup("<table>{}{}</table>").format(head, Markup("").join(rows))


def in_words(figures: Mapping[str, Any], step: int, steps: int) -> dict[str, str]:
    """The figures of a log line as a person reads them."""
    left = (steps - step) * figures["seconds_per_step"]
    return {
        "step": f"{step:,} of {steps:,}", "loss": f"{figures['loss']:.3f}",
        "tokens a second": f"{figures['tokens_per_second']:,.0f}", "utilisation": f"{figures['mfu']:.1%}",
        "waiting for data": f"{figures['wait']:.1%}", "epochs": f"{figures['epoch']:.2f}",
        "skipped steps": f"{figures['skipped']}", "left": duration(left) if left > 0 else "done",
    }  # fmt: skip
