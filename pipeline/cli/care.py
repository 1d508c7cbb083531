"""Commands that look after a data set: verify, repair, gc, retry, forget, promote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, DryRun, Run, Target, settings

Relabel = Annotated[int, typer.Option("--relabel", help="Samples a shard to label again and compare; 0 for none.")]
OnlyRefs = Annotated[
    list[str] | None, typer.Option("--only", help="Only this MODALITY or MODALITY@RECIPE; repeatable.")
]


def reader_of(name: str) -> Any:
    """How shards of a modality are opened to check them, labels and tokens alike; None where nobody here knows."""
    from functools import partial

    from labelers.core.registry import all_modalities
    from pipeline.ingest.ingest import verify_rgb
    from pipeline.shards import verify_labels
    from tokenize_shards.shards import verify_tokens

    if name == "rgb":
        return verify_rgb
    if name.startswith("tok_"):
        return verify_tokens
    modality = all_modalities().get(name)
    return partial(verify_labels, modality=modality) if modality else None


def steps_of(ds: Any, config: Any, refs: Sequence[tuple[str, str]]) -> list[Any]:
    """Steps and pools that make recipes again, readers after what they read."""
    from pipeline.care.rebuild import grouped, target_of, weights_at_hand
    from pipeline.label import pool_of
    from pipeline.plan import Step
    from pipeline.records import SOURCE
    from tokenize_shards.decode import decode_steps_of
    from tokenize_shards.rebuild import token_steps_of

    decoded = decode_steps_of(ds, config, [ref for ref in refs if ref != SOURCE])
    again = {ref for step, _ in decoded for ref in step.outputs}
    labels = [ref for ref in refs if not ref[0].startswith("tok_") and ref != SOURCE and ref not in again]
    made: list[Any] = []
    for group in grouped(ds, labels):
        target = target_of(ds, group)
        if target is not None and weights_at_hand(ds, ds.recipe(group[0][1])):
            name = f"{target.labeler}@{group[0][1]}"
            made.append((Step(name, target.reads, target.outputs), pool_of(config, target)))
    outputs = {ref: step.name for step, _ in made for ref in step.outputs}
    made.sort(key=lambda pair: sum(ref in outputs for ref in pair[0].reads))
    return made + token_steps_of(ds, config, [ref for ref in refs if ref[0].startswith("tok_")]) + decoded


def look(config: Any, only: list[str] | None, relabel: int, quiet: bool) -> tuple[Any, list[Any]]:
    """(data set, findings of verify), with progress."""
    from pipeline.care.content import ContentChecks
    from pipeline.care.promote import parse_ref
    from pipeline.care.verify import verify as run
    from pipeline.cli.console import bars
    from pipeline.dataset import Dataset
    from tokenize_shards.rebuild import TokenCheck

    ds = Dataset.open(config.root)
    refs = [parse_ref(ds, text) for text in only] if only else None
    content = ContentChecks(relabel, {"tok_": TokenCheck(relabel)} if relabel else {"tok_": lambda *_: ""})
    with bars(f"Verify {config.root}", "shards", quiet) as progress:
        return ds, run(ds, reader_of, content, refs, progress)


def verify(target: Target, only: OnlyRefs = None, relabel: Relabel = 2, as_json: AsJson = False) -> None:
    """Check commits, counts, digests and order of everything, and that labels belong to their images. Exit 3 on damage."""
    from dataclasses import asdict

    from pipeline.cli.console import err, print_json
    from pipeline.errors import DamageError

    _, findings = look(settings(target, None), only, relabel, as_json)
    if as_json:
        print_json({"findings": [{**asdict(f), "sentence": f.sentence()} for f in findings]})
    for finding in findings:
        err.print(f"  {finding.sentence()}", markup=False)
    if findings:
        raise DamageError(f"verify: {len(findings)} findings. `manymodal repair` makes again what can be made again.")
    err.print("verify: all is as committed.", markup=False)


def repair(
    target: Target, only: OnlyRefs = None, relabel: Relabel = 2, executor: Run = None, assign: Assign = None,
    dry_run: DryRun = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Verify, and make again what is damaged, nothing else."""
    from pipeline.care.forget import drop_sources
    from pipeline.care.repair import Repair
    from pipeline.care.repair import repair as run
    from pipeline.cli.console import bars, err, print_json
    from pipeline.errors import Incomplete

    config = settings(target, assign, executor)
    ds, findings = look(config, only, relabel, as_json)
    for finding in findings:
        err.print(f"  {finding.sentence()}", markup=False)
    result = Repair()
    if dry_run or not findings:
        err.print(f"repair: {len(findings)} findings{', nothing done' if findings else ''}.", markup=False)
    else:
        with bars(f"Repair {config.root}", "shards", as_json) as progress:
            result = run(ds, config, findings, lambda refs: steps_of(ds, config, refs), progress)
        drop_sources(ds)
        err.print(
            f"repair: {len(result.repaired)} repaired, {result.identical} with the committed digest.", markup=False
        )
    if as_json:
        print_json(
            {
                "findings": [f.sentence() for f in findings],
                "repaired": [f.sentence() for f in result.repaired], "identical": result.identical,
                "left": [{"finding": f.sentence(), "why": why} for f, why in result.left],
            }
        )  # fmt: skip
    for finding, why in result.left:
        err.print(f"  not repaired: {finding.sentence()}. {why}", markup=False)
    if result.left:
        raise Incomplete(f"repair: {len(result.left)} of {len(result.left) + len(result.repaired)} findings are left.")


def gc(
    target: Target,
    hours: Annotated[float, typer.Option("--older-than", help="Hours; what is younger may belong to a run.")] = 24.0,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Delete this MODALITY@RECIPE, which must not be current.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete what nothing needs: remains of attempts that died. Whole recipes only by name."""
    from pipeline.care.garbage import collect, garbage
    from pipeline.care.garbage import drop as drop_recipe
    from pipeline.care.promote import parse_ref
    from pipeline.cli.console import err, print_json
    from pipeline.dataset import Dataset

    ds = Dataset.open(settings(target, None).root)
    keys = garbage(ds, hours) if dry_run else collect(ds, hours)
    for text in drop or ():
        keys += drop_recipe(ds, parse_ref(ds, text), dry_run)
    for key in keys[:50]:
        err.print(f"  {key}", markup=False)
    err.print(f"gc: {len(keys)} files {'would go' if dry_run else 'deleted'}.", markup=False)
    if as_json:
        print_json({"deleted": [] if dry_run else keys, "garbage": keys})


def retry(
    target: Target,
    reason: Annotated[
        list[str] | None, typer.Option("--reason", help="Only inputs quarantined for this reason; repeatable.")
    ] = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> None:
    """Take quarantined inputs again, after their cause was mended; what can be used now is appended."""
    from pipeline.cli.console import err, print_json
    from pipeline.cli.data import report_ingest
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError
    from pipeline.ingest.again import candidates_of, known_sources
    from pipeline.ingest.ingest import take_in
    from pipeline.ingest.quarantine import pending

    config = settings(target, assign)
    ds = Dataset.open(config.root)
    entries = pending(ds)
    chosen = [entry for entry in entries if not reason or entry[1] in reason]
    if reason and not chosen and entries:
        known = ", ".join(sorted({entry[1] for entry in entries}))
        raise ConfigError(f"--reason {reason[0]}: nothing is quarantined for it. There are: {known}.")
    uris = {uri for uri, _, _ in chosen}
    report = take_in(ds, candidates_of(ds, uris, known_sources(ds, config.sources)))
    lost = len(uris) - report.new - report.known - len(report.duplicates) - len(report.quarantined)
    err.print(f"retry: {len(uris) - lost} inputs tried again, {report.new} can be used now.", markup=False)
    if lost:
        err.print(
            f"retry: {lost} inputs were found at no source that is known; name theirs to `manymodal ingest`.",
            markup=False,
        )
    result = {**report_ingest(report), "not_found": lost}
    if as_json:
        print_json(result)


def forget(
    target: Target,
    ids: Annotated[list[str], typer.Argument(help="Sample ids (see `manymodal why`).")],
    as_json: AsJson = False,
) -> None:
    """Remove samples for good: from every recipe of every modality, old ones too. Their places stay, as nulls."""
    from pipeline.cards.data_card import write_cards
    from pipeline.care.forget import forget as run
    from pipeline.care.forget import indexes_with, sources
    from pipeline.cli.console import err, print_json
    from pipeline.dataset import Dataset
    from tokenize_shards.rebuild import token_rewrite

    ds = Dataset.open(settings(target, None).root)
    indexes = indexes_with(ds, ids)
    counts = run(ds, ids, token_rewrite)
    write_cards(ds)
    for name, shards in counts.items():
        err.print(f"  {name}: {shards} shards written again", markup=False)
    err.print(
        "forget: done. Models, tokenizers and pages made before still carry what they learned or show.", markup=False
    )
    if indexes:
        err.print(f"forget: deleted indexes that held them, build them again: {', '.join(indexes)}", markup=False)
    read = sources(ds)
    if read:
        err.print(
            "forget: the copies of imported labels are deleted; the files they were of are yours and are as they were: take "
            f"what is forgotten out of them, too: {', '.join(sorted(read.values()))}", markup=False,
        )  # fmt: skip
    if as_json:
        print_json({"removed": ids, "shards": counts, "indexes": indexes, "sources": read})


def promote(
    target: Target,
    refs: Annotated[list[str] | None, typer.Argument(help="MODALITY@RECIPE to make current.")] = None,
    manifest: Annotated[int | None, typer.Option("--manifest", help="Go back to all that this manifest named.")] = None,
    as_json: AsJson = False,
) -> None:
    """Switch which recipe of a modality is current, atomically; going back is the same command."""
    from pipeline.cards.data_card import write_cards
    from pipeline.care.promote import go_back, parse_ref
    from pipeline.care.promote import promote as run
    from pipeline.cli.console import err, print_json
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError

    ds = Dataset.open(settings(target, None).root)
    if (manifest is None) == (not refs):
        raise ConfigError("promote: name recipes (MODALITY@RECIPE), or --manifest N, one of the two.")
    now = go_back(ds, manifest) if manifest is not None else run(ds, [parse_ref(ds, text) for text in refs or ()])
    write_cards(ds)
    err.print(f"promote: manifest {now.version} is current.", markup=False)
    if as_json:
        print_json({"manifest": now.version, "modalities": dict(now.modalities)})
