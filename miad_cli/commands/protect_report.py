"""What `miad protect` says of a run: lines for people, one JSON object for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from miad_cli import console
from miad_cli.commands.send import render_send, send_facts
from miad_cli.errors import MiadError

if TYPE_CHECKING:
    from miad_cli.outcomes import Outcome, Report
    from miad_cli.send import SendReport


def render_report(
    report: Report,
    sent: SendReport | MiadError | None,
    code: int,
    manners: console.Manners,
    path: Path | None,
) -> None:
    """Say what became of a run and of `sent`, which is sending what it made; `path` is where the
    JSON goes besides, and `code` the exit code of both together."""
    facts = _report_facts(report) | {"exit_code": code}
    if isinstance(sent, MiadError):
        facts["sent"] = {"error": sent.message, "hint": sent.hint, "exit_code": sent.exit_code}
    elif sent is not None:
        facts["sent"] = send_facts(sent)
    if manners.as_json:
        console.print_json(facts)
    for outcome in report.outcomes:
        _render_outcome(outcome, manners)
    _render_summary(report, manners)
    if isinstance(sent, MiadError):
        console.report_error(sent, as_log_line=manners.log_json)
    elif sent is not None:
        render_send(sent, manners)
    if path is not None:
        from miad_cli.files import write_report

        write_report(path, facts)


def _render_outcome(outcome: Outcome, manners: console.Manners) -> None:
    name, reason = console.clean(outcome.name), console.clean(outcome.reason)
    if outcome.state == "failed":
        console.file_failed(outcome.name, outcome.reason, outcome.hint, manners)
    elif outcome.state in ("copied", "passed over", "left out", "planned"):
        console.say(manners, f"[dim]{outcome.state}[/] {name}: {reason}")
    elif manners.verbose:
        console.say(manners, f"[green]{outcome.state}[/] {name}{_verdict(outcome)}")


def _verdict(outcome: Outcome) -> str:
    made = outcome.protection
    if made is None:
        return ""
    if made.fooled is None:
        effect = f"no model for this task, features moved {made.feature_distance:.2f}"
    else:
        effect = f"{made.models_fooled} of {made.models} models fooled"
    if not made.largest_change:  # not wanted, or no model gives the gradients it takes
        effect += ", without perturbation"
    return f"  [dim]{made.profile}, {effect}, {made.queries} queries, {made.seconds:.1f} s[/]"


def _render_summary(report: Report, manners: console.Manners) -> None:
    from miad_cli.outcomes import DIRECTORY_MADE

    done, failed = report.count("protected"), report.count("failed")
    if report.count("planned"):
        pictures = sum(one.state == "planned" and one.is_picture for one in report.outcomes)
        copies = report.count("planned") - pictures
        said = f"{pictures} would be protected" + (f", {copies} copied" if copies else "")
        said += f", [red]{failed} failed[/]" if failed else ""
        console.say(manners, f"{said}; nothing was written.")
        return
    judged = report.judged
    unknown = done - len(judged)
    parts = [f"[bold]{done} protected[/]"]
    if judged:
        parts.append(f"{sum(bool(one.fooled) for one in judged)} of {len(judged)} fooled")
    if unknown:
        parts.append(f"{unknown} of a task that no model knows")
    for state in ("copied", "skipped", "passed over", "left out"):
        if report.count(state):
            parts.append(f"{report.count(state)} {state}")
    if failed:
        parts.append(f"[red]{failed} failed[/]")
    console.say(manners, ", ".join(parts))
    if done:
        console.say(manners, f"output: {console.clean(report.output)}")
    if report.key is not None:
        console.say(manners, f"key:    {console.clean(report.key)}   keep it: it is the way back")
    if any(one.state == "copied" and one.reason != DIRECTORY_MADE for one in report.outcomes):
        console.warn(
            "copies of objects without a picture hold what was found and said of the patient, "
            "in clear: look at what you pass on",
            manners,
        )
    if report.count("passed over") and done:
        console.warn(
            "some objects were passed over and are not in the output: keep the source", manners
        )
    if report.unmarked:
        console.warn(
            f"the mask marks nothing on {report.unmarked} pictures: there the logo keeps off "
            "what the models attend to",
            manners,
        )
    if any(one.names_a_patient for one in report.protections):
        console.warn(
            "pictures name a patient, and so do their protected copies: "
            "miad does not de-identify; do that first, with a tool made for it",
            manners,
        )


def _report_facts(report: Report) -> dict[str, Any]:
    """The report as JSON. It names files by their place in the output, and no patient."""
    from miad_cli.outcomes import STATES

    return {
        "command": "protect",
        "output": report.output.name,
        "key": str(report.key) if report.key else None,
        "owner_key_id": report.owner_key_id,
        "provider": report.provider,
        "seed": report.seed,
        "banks": report.banks,
        "profiles": report.profiles,
        "counts": {state: report.count(state) for state in STATES},
        "fooled": {"of": len(report.judged), "n": sum(bool(one.fooled) for one in report.judged)},
        "files": [outcome_facts(outcome) for outcome in report.outcomes],
        "exit_code": report.exit_code,
    }


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """What became of one file, as JSON."""
    facts: dict[str, Any] = {"name": str(outcome.name), "state": outcome.state}
    if outcome.output is not None:
        facts["output"] = str(outcome.output)
    if outcome.reason:
        facts["reason"] = outcome.reason
    if outcome.protection is not None:
        facts |= vars(outcome.protection)
    return facts
