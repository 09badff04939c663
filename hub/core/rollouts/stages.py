"""Reads stages as operators write them, and builds those that are signed: `1,10,100`, or `canary: site=lab; 10; 100`."""

import re
from collections.abc import Sequence
from typing import Final

from hub.core.rollouts.commands import NamedStage
from schemas.deployments import NAME_CHARACTERS_MAX, Stage, name_of
from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX, STAGES_MAX
from schemas.selectors import parse

EXAMPLES: Final = "write whole percents and selectors, such as 1,10,100 or 'canary: site=lab; 10; 100'"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

AskedStage = int | NamedStage


def parse_stages(text: str) -> tuple[AskedStage, ...]:
    """Return the stages that a text describes: percents separated by commas or semicolons, and selectors, each with a name or without.

    Raises:
        Refused: ROLLOUT_INVALID, naming the part that is neither; SELECTOR_INVALID.
    """
    if len(text) > SELECTOR_CHARACTERS_MAX:
        raise Refused(Code.ROLLOUT_INVALID, f"they have {len(text)} characters, at most {SELECTOR_CHARACTERS_MAX} are allowed")
    found: list[AskedStage] = []
    for number, part in enumerate(text.split(";"), start=1):
        found += _percents(part, number) if _are_percents(part) else [_named(part, number)]
    if len(found) > STAGES_MAX:
        raise Refused(Code.ROLLOUT_INVALID, f"there are {len(found)} stages, at most {STAGES_MAX} are allowed")
    return tuple(found)


def _are_percents(part: str) -> bool:
    """Return whether a part is meant as percents, also where one of them is wrong."""
    terms = [one.strip().removesuffix("%").strip() for one in part.split(",")]
    return not any(sign in part for sign in ":=!(") and any(not one or one.isdecimal() for one in terms)


def _percents(part: str, number: int) -> list[AskedStage]:
    found: list[AskedStage] = []
    for one in part.split(","):
        text = one.strip().removesuffix("%").strip()
        if not text.isdecimal() or not 1 <= int(text[:4]) <= 100:
            raise _invalid(part, number, f"{one.strip()!r} is no percentage from 1 to 100")
        found.append(int(text))
    return found


def _named(part: str, number: int) -> NamedStage:
    name, colon, where = part.rpartition(":")
    name, where = name.strip(), where.strip()
    if colon and (not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX):
        raise _invalid(part, number, f"{name[:60]!r} is no name of a stage: it begins with a letter, then letters, digits, '.', '_', '-'")
    if not where:
        raise _invalid(part, number, "it has no selector")
    try:
        selector = parse(where)
    except Refused as refusal:
        raise _invalid(part, number, f"it is neither percents nor a selector ({refusal.reason})") from None
    return NamedStage(name=name or name_of(selector), where=where)


def _invalid(part: str, number: int, reason: str) -> Refused:
    return Refused(Code.ROLLOUT_INVALID, f"part {number}, {part.strip()[:80]!r}: {reason}; {EXAMPLES}")


def built(asked: Sequence[AskedStage], approve: Sequence[int | str]) -> tuple[Stage, ...]:
    """Return the stages that are signed.

    Raises:
        Refused: ROLLOUT_INVALID: percents do not rise to 100, two stages have one name, or none after the first is called as one that
            waits for approval.
    """
    percents = [one for one in asked if isinstance(one, int)]
    if percents != sorted(set(percents)) or not asked or asked[-1] != 100:
        said = ", ".join(str(one) if isinstance(one, int) else one.name for one in asked)
        raise Refused(Code.ROLLOUT_INVALID, f"stages must rise and end at 100, not {said}")
    keys = [one if isinstance(one, int) else one.name for one in asked]
    if len(set(keys)) != len(keys):
        twice = next(one for one in keys if keys.count(one) > 1)
        raise Refused(Code.ROLLOUT_INVALID, f"two stages are called {twice}: give each a name of its own, as in 'canary: site=lab'")
    for one in approve:
        if one not in keys[1:]:
            shown = f"{one} %" if isinstance(one, int) else one
            others = ", ".join(map(str, keys[1:])) or "none"
            first = "; the first begins with the rollout itself" if one in keys else ""
            raise Refused(
                Code.ROLLOUT_INVALID,
                f"stages that wait for approval must be among those after the first ({others}), not {shown}{first}",
            )
    return tuple(_stage(one, waits=key in approve) for one, key in zip(asked, keys, strict=True))


def _stage(one: AskedStage, *, waits: bool) -> Stage:
    approve = True if waits else None
    return Stage(one, approve=approve) if isinstance(one, int) else Stage(None, one.name, parse(one.where), approve)


def words(stages: Sequence[Stage]) -> str:
    """Return stages in a sentence: `canary, 10 %, 100 %`."""
    return ", ".join(words_of(one) for one in stages)


def words_of(stage: Stage) -> str:
    """Return whom a stage adds: `10 %`, or `canary`."""
    return f"{stage.percent} %" if stage.percent is not None else stage.name or "its selector"
