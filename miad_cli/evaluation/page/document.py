"""The page as a whole. It asks nothing of any network: style, script and pictures are in it, and
its Content-Security-Policy lets the browser run and show nothing else."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from importlib import resources
from string import Template

from miad_cli.evaluation.findings import (
    Beside,
    Findings,
    Headline,
    Meta,
    Sample,
    labels_sentence,
)
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.page.charts import bars_html, roc_html
from miad_cli.evaluation.page.markup import (
    NONE,
    PAPER,
    esc,
    hint,
    interval,
    number,
    percent,
)
from miad_cli.evaluation.page.pictures import sample_html
from miad_cli.evaluation.page.tables import plain_table, table_html

GENERATOR = "miad evaluate"
"""What the page says it was made with; only such a page may be overwritten."""

PROTOCOLS = {
    "seen": ("Seen models", "Each model is attacked by itself and tested on itself."),
    "unseen": (
        "Unseen models",
        "How it stands with somebody else's model: the one that is tested had no part in the "
        "search.",
    ),
    "removal": (
        "Removal networks",
        "What networks that take logos off make of protected pictures, and what the models say "
        "of the result.",
    ),
    "authorise": ("The way back", "What somebody with a key gets, and without one."),
    "robust": (
        "Counterattacks",
        "What can be tried without a key: everyday processing, repainting, and training on "
        "protected pictures.",
    ),
    "lesions": ("Lesions", "How much of what a reader looks for lies under logo and δ."),
    "strength": (
        "Strength and cost",
        "What a weaker or a stronger protection leaves to models, and to the reader.",
    ),
    "logos": ("Several logos", "How much depends on the logo."),
    "sweep": ("One setting at a time", "How much depends on each setting of the search."),
}
"""Title and sentence of every protocol; another one is shown under its own name."""

BESIDE = (
    f"Figures beside “paper” are those of {PAPER}: other pictures, other models. They say what to "
    "expect of the method, not what these models should reach."
)


def render(findings: Findings) -> str:
    """The page, as HTML."""
    style, script = _part("style.css"), _part("script.js")
    sections = [
        ("summary", "Summary", _summary(findings)),
        *_protocols(findings),
        *_samples(findings.samples),
        ("settings", "How it was made", _settings(findings.meta)),
    ]
    contents = "".join(
        f'<li><a href="#{name}">{esc(title)}</a></li>' for name, title, _ in sections
    )
    main = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{esc(title)}'
        f"</h2>{body}</section>"
        for name, title, body in sections
    )
    meta = findings.meta
    return Template(_part("template.html")).substitute(
        policy=_policy(style, script),
        generator=f"{GENERATOR} {esc(meta.version)}",
        title=f"Evaluation of protection: {esc(meta.data.name)}",
        name=esc(meta.data.name),
        byline=_byline(meta),
        contents=contents,
        main=main,
        style=style,
        script=script,
    )


def _part(name: str) -> str:
    return resources.files("miad_cli.evaluation.page").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing but this style, this script, and pictures that the page holds itself."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


# --- Sections ---------------------------------------------------------------------------------


def _byline(meta: Meta) -> str:
    used = f"{meta.data.used:,} of {meta.data.pictures:,} pictures"
    return esc(f"{used} · {len(meta.models)} models · {meta.created:%d %B %Y, %H:%M %Z}".strip())


def _summary(findings: Findings) -> str:
    summary = findings.summary
    said = "".join(f"<p>{esc(sentence)}</p>" for sentence in summary.sentences)
    figures = "".join(_headline(one) for one in summary.headlines)
    labels = esc(labels_sentence(findings.meta.data.labels_from))
    limits = "".join(f"<li>{esc(limit)}</li>" for limit in summary.limits)
    return (
        f'<div class="lead">{said}</div>'
        + (f'<dl class="headlines">{figures}</dl>' if figures else "")
        + f'<p class="labels">{labels}</p>'
        + (f'<p class="labels">{esc(BESIDE)}</p>' if _has_paper(findings) else "")
        + (f'<h3>What this does not show</h3><ul class="limits">{limits}</ul>' if limits else "")
    )


def _headline(one: Headline) -> str:
    value, small = esc(one.value), []
    digits = max(0, one.digits - 2) if one.as_share else one.digits
    unit = " %" if one.as_share else ""
    if not isinstance(one.value, str):
        figure = percent(one.value) if one.as_share else one.value
        value = number(figure.value if isinstance(figure, Estimate) else figure, digits) + unit
        if isinstance(figure, Estimate):
            width = interval(figure, digits)
            small += [f"95 % interval: {width}{unit}"] if width else []
            small += [f"n = {figure.n:,}"]
    if one.paper is not None:
        theirs = number(one.paper * 100 if one.as_share else one.paper, digits)
        small.append(f"paper: {theirs}{unit}")
    lines = "".join(f"<span>{line}</span>" for line in small) + hint(one.better)
    return (
        f"<div><dt>{esc(one.label)}</dt><dd><strong>{value}</strong>"
        f'<span class="small">{lines}</span><span class="means">{esc(one.meaning)}</span>'
        "</dd></div>"
    )


def _protocols(findings: Findings) -> list[tuple[str, str, str]]:
    """Anchor, title and body of each protocol; tables and figures are numbered throughout."""
    sections = []
    tables = plots = 0
    for place, protocol in enumerate(findings.protocols, 1):
        title, sentence = PROTOCOLS.get(protocol, (protocol, ""))
        parts = [f'<p class="about">{esc(sentence)}</p>'] if sentence else []
        for table in (one for one in findings.tables if one.protocol == protocol):
            tables += 1
            parts.append(table_html(table, tables))
        drawn = []
        for bars in (one for one in findings.bars if one.protocol == protocol):
            plots += 1
            drawn.append(bars_html(bars, plots))
        for curves in (one for one in findings.curves if one.protocol == protocol):
            plots += 1
            drawn.append(roc_html(curves, plots))
        if drawn:
            parts.append(f'<div class="plots">{"".join(drawn)}</div>')
        sections.append((f"protocol-{place}", title, "".join(parts)))
    return sections


def _has_paper(findings: Findings) -> bool:
    cells = (cell for table in findings.tables for row in table.rows for cell in row)
    bars = (bar for chart in findings.bars for _, group in chart.groups for bar in group)
    papers = [one.paper for one in findings.summary.headlines]
    papers += [one.paper for one in bars]
    papers += [cell.paper for cell in cells if isinstance(cell, Beside)]
    return any(paper is not None for paper in papers)


def _samples(samples: tuple[Sample, ...]) -> list[tuple[str, str, str]]:
    if not samples:
        return []
    body = "".join(sample_html(sample, place) for place, sample in enumerate(samples, 1))
    said = "Samples as they are displayed, not larger than 512 pixels."
    return [("pictures", "Pictures", f'<p class="about">{said}</p>{body}')]


def _settings(meta: Meta) -> str:
    facts = {
        "miad": meta.version,
        "Made": f"{meta.created:%Y-%m-%d %H:%M %Z}".strip(),
        "Took": _duration(meta.seconds),
        "Seed": str(meta.seed),
        "Pictures": f"{meta.data.name}: {meta.data.used:,} of {meta.data.pictures:,}",
        "Classes": ", ".join(f"{name} {count:,}" for name, count in meta.data.classes) or NONE,
        "Labels": "given" if meta.data.labels_from == "given" else "the models' own predictions",
        "Execution provider": f"{meta.provider} on {meta.device}",
        "Profile": meta.profile,
    }
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{esc(text)}</dd></div>" for name, text in facts.items()
    )
    digest = (
        f"<div><dt>Digest of the profile</dt><dd><code>{esc(meta.profile_digest)}</code></dd></div>"
    )
    models = plain_table(
        "models",
        "Models",
        ("name", "family", "role", "part", "licence", "SHA-256"),
        (
            f'<th scope="row">{esc(one.name)}</th><td>{esc(one.family)}</td>'
            f"<td>{esc(one.role)}</td><td>{esc(one.part)}</td><td>{esc(one.licence)}</td>"
            f'<td class="digest"><code>{esc(one.sha256)}</code></td>'
            for one in meta.models
        ),
    )
    settings = _pairs("settings-table", "Settings", "setting", meta.settings.items())
    libraries = _pairs("libraries", "Versions", "library", meta.libraries.items())
    return (
        f'<dl class="facts wide">{listed}{digest}</dl>'
        f'<h3>Command</h3><pre tabindex="0"><code>{esc(meta.command)}</code></pre>'
        f'{models}<div class="pair">{settings}{libraries}</div>'
    )


def _pairs(identifier: str, caption: str, name: str, pairs: Iterable[tuple[str, object]]) -> str:
    rows = (
        f'<th scope="row">{esc(key)}</th><td>{esc(_setting(value))}</td>' for key, value in pairs
    )
    return plain_table(identifier, caption, (name, "value"), rows)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return NONE if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
