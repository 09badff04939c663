"""Answer whether a release may go out: its builds, what was checked, what it watches, what may be set, who signed it."""

from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.counted import named
from hub.core.publish.check_rules import Check, content_of
from hub.operations.opened_fleet import check_model
from hub.operations.release_rows import needed_as, present_deployments
from hub.publish.check_results import Checks
from hub.web.console.moments import moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.models import manifests_of
from hub.web.console.pages.node_words import megabytes
from hub.web.console.pages.release_plan import cost, planned_of_release, rows, warnings, who
from hub.web.console.pages.releases_words import serving
from hub.web.console.refusals import NotThere, Wrong
from hub.web.console.sentence import bold, code, link, listed, path, said
from schemas.bundle import role_name
from schemas.manifest import Manifest

DIGITS: Final = 12


def load(view: View) -> Answer:
    """Return the page of a release."""
    model, version = view.params["model"], view.params["version"]
    check_model(view.fleet.repository, model)
    found = next(((digest, one) for digest, one in manifests_of(view).items() if (one.model, one.version) == (model, version)), None)
    if found is None:
        raise NotThere(
            Wrong(
                404,
                said("No release ", bold(f"{model} {version}"), ". ", link("Those that there are", path("models", model)), "."),
                title="no release",
            )
        )
    digest, manifest = found
    checks = Checks(view.fleet.directory / "checks").of(content_of(manifest))
    lacks = Checks(view.fleet.directory / "checks").against(manifest, view.fleet.settings.checks_required)
    needed = needed_as(present_deployments(view.fleet.repository, model)).get(digest)
    nodes = serving(view, model)[version]
    plan = planned_of_release(view, model, version)
    return Answer(
        _sentence(manifest, checks, lacks),
        f"fleetcast plan {model}@{version}; fleetcast check {model}@{version} --profile pi4,gateway,tiny",
        {
            "release": manifest,
            "lacks": lacks,
            "start": path("models", model, "releases", version, "start"),
            "plan": plan,
            "plan_text": plan[:1].upper() + plan[1:]
            if isinstance(plan, str)
            else f"{who(plan)}: {cost(plan)}"
            if plan.moves
            else who(plan),
            "plan_held": "" if isinstance(plan, str) else megabytes(plan.bytes_reused),
            "plan_links": [] if isinstance(plan, str) else rows(plan),
            "plan_warnings": [] if isinstance(plan, str) else warnings(plan),
            "variants": [_variant(manifest, one) for one in manifest.variants],
            "checks": [_check(name, one, view.now) for name, one in sorted(checks.items())],
            "watches": _watches(manifest),
            "parameters": [_parameter(one) for one in manifest.parameters or ()],
            "signers": [key[:DIGITS] for key in view.fleet.repository.keyids(role_name(model))],
            "digest": digest.hex(),
            "published": moment(manifest.created, view.now),
            "nodes": nodes,
            "nodes_at": path("nodes", serves=f"{model}@{version}"),
            "needed": f"the {needed[0]} of deployment {needed[1].name}" if needed is not None else "",
        },
        title=f"{model} {version}",
        crumbs=(link("Models", "/models"), link(model, path("models", model)), said(version)),
    )


def _sentence(manifest: Manifest, checks: dict[str, Check], lacks: list[str]) -> Markup | str:
    name = f"{manifest.model} {manifest.version}"
    failed = sorted(profile for profile, one in checks.items() if not one.result.passed)
    passed = sorted(profile for profile, one in checks.items() if one.result.passed)
    if failed:
        return said(f"{name} failed on ", listed(failed, " and "), f", and passed on {', '.join(passed)}" if passed else "")
    if not checks:
        return f"{name} was checked for no profile" if not lacks or "profile" in lacks[0] else f"{name}: {lacks[0]}"
    return said(f"{name} passed on ", listed(passed, " and "), f"; {lacks[0]}" if lacks else ": it may go out")


def _variant(manifest: Manifest, one: Any) -> dict[str, Any]:
    wants = one.requirements
    needs = [", ".join(wants.arch), ", ".join(wants.providers), number_of(wants.cores_min, "core") if wants.cores_min else ""]
    needs += [f"{megabytes(wants.memory_bytes_min)} MB of memory" if wants.memory_bytes_min else ""]
    files = manifest.files_of(one.name)
    measured = one.measured
    return {
        "name": one.name,
        "runtime": one.runtime,
        "megabytes": megabytes(sum(file.bytes for file in files)),
        "files": len(files),
        "needs": "; ".join(need for need in needs if need) or "any device",
        "measured": f"{measured.metric} {measured.score:.4g}, {measured.original:.4g} before" if measured is not None else "",
    }


def _check(name: str, one: Check, now: int) -> dict[str, Any]:
    result = one.result
    latency = f"{result.latency_ms:.3g} ms, estimated" if result.latency_ms is not None else ""
    return {
        "profile": name,
        "passed": result.passed,
        "code": result.code,
        "reason": result.reason,
        "latency": latency,
        "at": moment(one.at, now),
    }


def _watches(manifest: Manifest) -> Markup:
    baseline = manifest.baseline
    if baseline is None:
        return said(f"{manifest.version} watches no signals: it was published without ", code("--reference"), ".")
    names = [one.name for one in baseline.signals]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return said(
        f"{number_of(len(names), 'signal')} against {baseline.rows:,} {named(baseline.rows, 'row')}: ", ", ".join(names[:8]), more, "."
    )


def _parameter(one: Any) -> dict[str, Any]:
    bounds = [f"at least {one.min:g}" if one.min is not None else "", f"at most {one.max:g}" if one.max is not None else ""]
    bounds += [f"one of {', '.join(one.choices)}" if one.choices else ""]
    default = ", ".join(f"{key}: {value}" for key, value in one.default.items()) if isinstance(one.default, dict) else str(one.default)
    return {
        "name": one.name,
        "default": default,
        "bounds": "; ".join(each for each in bounds if each),
        "site": one.site,
        "goes_to": one.goes_to,
    }


PAGES: Final = (Page("/models/{model}/releases/{version}", "release.html", load, "Models"),)
