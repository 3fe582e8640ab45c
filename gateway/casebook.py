"""Cases at the command line: listed, shown, resolved."""

import msgspec

from actors.actor import Answer
from actors.errors import ActorError
from actors.events import CaseAction
from actors.order import Reply
from gateway.api.bodies import ResolveCase
from gateway.api.cases import DECIDE_TRIES, case_view, decision, why_not
from gateway.config import Config
from gateway.desk import Desk, desk
from gateway.representation import rfc3339
from gateway.storage.cases import Case, Cases, parsed

LISTED_MAX = 100


class CaseRefused(Exception):
    """There is no such case, or that can not be done about it; the message is a sentence."""


async def listed(config: Config, app_id: str | None, is_open: bool, after: str | None, as_json: bool) -> str:
    """A page of cases as a table, or as JSON."""
    behind = None if after is None else _named(after)
    async with desk(config) as at:
        cases = await Cases(at.pool).page(app_id=app_id, is_open=is_open, after=behind, rows_max=LISTED_MAX)
    if cases is None:
        raise CaseRefused(f"there is no case {after}")
    if as_json:
        return msgspec.json.encode([case_view(case) for case in cases]).decode()
    if not cases:
        return "no open cases" if is_open else "no resolved cases"
    lines = [_line(case) for case in cases]
    more = [f"more: --after {cases[-1].case_id}"] if len(cases) == LISTED_MAX else []
    return "\n".join([f"{'case':<30} {'app':<12} {'reason':<20} {'opened':<25} resolved", *lines, *more])


async def shown(config: Config, case_id: str) -> str:
    """A case with its order, as indented JSON."""
    async with desk(config) as at:
        case = await _case(at, case_id)
        order = await at.journal.load(case.order_id)
        return msgspec.json.format(msgspec.json.encode(case_view(case, order)), indent=2).decode()


async def resolved(config: Config, case_id: str, action: str, by: str, note: str) -> str:
    """Carry out a decision.

    Raises:
        CaseRefused: it was resolved before, this can not be done, or it is not said who decides and why.
    """
    _check(case_id, action, by, note)
    async with desk(config) as at:
        case = await _case(at, case_id)
        if case.resolved_at_ms is not None:
            raise CaseRefused(f"{case_id} is resolved: {case.resolution} by {case.resolved_by}")
        if await at.journal.load(case.order_id) is None:
            return await _orphan_closed(at, case, action, by, note)
        answer = await _decided(at, case, CaseAction(action), by, note)
        if answer.reply is not Reply.DONE and answer.reply is not Reply.WAIT:
            raise CaseRefused(f"{case_id}: {action} can not be done; {why_not(answer, case)}")
        return f"{case_id}: {action}; the order is {answer.order.state}"


def _check(case_id: str, action: str, by: str, note: str) -> None:
    """What HTTP asks of a decision is asked here: it is kept with the case."""
    try:
        msgspec.convert({"action": action, "by": by, "note": note}, ResolveCase)
    except msgspec.ValidationError as error:
        raise CaseRefused(f"{case_id}: {error}") from None
    if not (by + note).isprintable():
        raise CaseRefused(f"{case_id}: no control characters in --by and --note")


async def _decided(at: Desk, case: Case, action: CaseAction, by: str, note: str) -> Answer:
    """As over HTTP: the case is read after its order, so that two who decide at once can not both win."""
    try:
        order = await at.journal.load(case.order_id)
        for _ in range(DECIDE_TRIES):
            case = await _case(at, case.case_id)
            if case.resolved_at_ms is not None:
                raise CaseRefused(f"{case.case_id} is resolved: {case.resolution} by {case.resolved_by}")
            seen = 0 if order is None else order.version
            answer = await at.registry.ask(
                case.order_id, decision(case, at.clock.now_ms(), action, by, note, seen), seen=seen
            )
            order = answer.order
            if answer.reply is not Reply.CASE_STALE:
                break
    except ActorError as error:
        raise CaseRefused(f"{case.case_id}: {type(error).__name__}: {error}") from None
    return answer


async def _orphan_closed(at: Desk, case: Case, action: str, by: str, note: str) -> str:
    if action != CaseAction.CLOSE:
        raise CaseRefused(f"{case.case_id} has no order here: it can only be closed")
    if not await Cases(at.pool).close_orphan(case.order_id, by, note):
        raise CaseRefused(f"{case.case_id} was resolved a moment ago")
    return f"{case.case_id}: closed"


async def _case(at: Desk, case_id: str) -> Case:
    order_id, version = _named(case_id)
    case = await Cases(at.pool).one(order_id, version)
    if case is None:
        raise CaseRefused(f"there is no case {case_id}")
    return case


def _named(case_id: str) -> tuple[str, int]:
    named = parsed(case_id)
    if named is None:
        raise CaseRefused(f"{case_id} is no case: expected the order's id, a dash and a number")
    return named


def _line(case: Case) -> str:
    done = "" if case.resolved_at_ms is None else f"{case.resolution} by {case.resolved_by}"
    app_id, opened_at = case.app_id or "-", rfc3339(case.opened_at_ms)
    return f"{case.case_id:<30} {app_id:<12} {case.reason:<20} {opened_at:<25} {done}".rstrip()
