"""What an app's people call about what the rules could not settle: its cases, and what is done about one."""

import msgspec
from aiohttp import web

from actors import casework
from actors.actor import Answer
from actors.events import CaseAction, CaseResolved
from actors.order import Order, Reason, Reply
from actors.ports import Clock
from gateway.api.auth import Authenticator
from gateway.api.bodies import Reader, ResolveCase, read
from gateway.api.callers_orders import CallersOrders, json_response, refuse
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.representation import OrderView, order_view, rfc3339
from gateway.storage.cases import Case, Cases, parsed

PAGE_ROWS_MAX = 100
DECIDE_TRIES = 5  # an order may move while people decide; it rarely does twice

_read_resolve = Reader(ResolveCase)
_encode = msgspec.json.Encoder().encode


class CaseView(msgspec.Struct, frozen=True):
    """A case. `evidence` is the event that opened it; `actions` is what can be done, while it is open."""

    case_id: str
    order_id: str
    reason: str
    evidence: msgspec.Raw | None
    opened_at: str
    resolved_at: str | None
    resolution: str | None
    resolved_by: str | None
    note: str | None
    actions: list[str] | None = None
    order: OrderView | None = None


class _Page(msgspec.Struct, frozen=True):
    cases: list[CaseView]
    next_after: str | None


class CasesApi:
    """The handlers, with the parts they need."""

    def __init__(self, authenticator: Authenticator, orders: CallersOrders, cases: Cases, clock: Clock) -> None:
        self._authenticator = authenticator
        self._orders = orders
        self._cases = cases
        self._clock = clock

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        return [
            Route("GET", "/v1/cases", self.page),
            Route("GET", "/v1/cases/{case_id}", self.get),
            Route("POST", "/v1/cases/{case_id}/resolve", self.resolve),
        ]

    async def page(self, request: Call) -> web.Response:
        """The app's cases, oldest first: `state` open (default) or resolved, `limit` up to 100, `after` a case."""
        app = await self._authenticator.app_of(request)
        state, after, limit = _asked(request, "state", "open"), _asked(request, "after"), _asked(request, "limit", "50")
        if state not in ("open", "resolved"):
            raise Problem("parameter_invalid", "expected open or resolved", param="state")
        if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= PAGE_ROWS_MAX:
            raise Problem("parameter_invalid", f"expected 1 to {PAGE_ROWS_MAX}", param="limit")
        behind = parsed(after)
        if after and behind is None:
            raise Problem("parameter_invalid", "expected a case_id", param="after")
        rows_max = int(limit)
        found = await self._cases.page(app_id=app.app_id, is_open=state == "open", after=behind, rows_max=rows_max)
        if found is None:
            raise Problem("parameter_invalid", "there is no such case", param="after")
        page = _Page([case_view(case) for case in found], found[-1].case_id if len(found) == rows_max else None)
        return json_response(_encode(page))

    async def get(self, request: Call) -> web.Response:
        """The case, its order, and what can be done about it."""
        case, order = await self._of(request)
        return json_response(_encode(case_view(case, order)))

    async def resolve(self, request: Call) -> web.Response:
        """Do something about it, and give the case as it is then."""
        case, order = await self._of(request)
        body = await read(request, _read_resolve)
        for _ in range(DECIDE_TRIES):
            # Read after the order: whoever settles it from here on moves the order on, and is found by that.
            case = await self._cases.one(case.order_id, case.version) or case
            if case.resolved_at_ms is not None:
                raise Problem("case_resolved", f"{case.resolution} by {case.resolved_by}", order_id=order.order_id)
            event = decision(case, self._clock.now_ms(), CaseAction(body.action), body.by, body.note, order.version)
            answer = await self._orders.tell(order, event)
            order = answer.order
            if answer.reply is not Reply.CASE_STALE:
                break
        refuse(answer, why_not(answer, case))
        resolved = await self._cases.one(case.order_id, case.version) or case
        return json_response(_encode(case_view(resolved, answer.order)))

    async def _of(self, request: Call) -> tuple[Case, Order]:
        app = await self._authenticator.app_of(request)
        named = parsed(request.match_info["case_id"])
        case = None if named is None else await self._cases.one(*named)
        # Whose it is the order says: a gateway of the release before writes no app into a case.
        order = None if case is None else await self._orders.loaded(case.order_id)
        if case is None or order is None or order.content.app_id != app.app_id:
            raise Problem("case_not_found", param="case_id")
        return case, order


def decision(case: Case, at_ms: int, action: CaseAction, by: str, note: str, seen: int) -> CaseResolved:
    """What people decided about a case that was open when its order was at version `seen`, as an event."""
    return CaseResolved(at_ms, case.version, case.reason, action, by, note, seen, _transaction(case))


def why_not(answer: Answer, case: Case) -> str:
    """Which actions are possible instead, if the one that was asked for is not."""
    if answer.reply is not Reply.CASE_ACTION_IMPOSSIBLE:
        return ""
    return f"possible now: {', '.join(casework.possible(answer.order, Reason(case.reason), _transaction(case)))}"


class _About(msgspec.Struct):
    """As much of an event as says which payment it was about."""

    transaction: str | None = None


def _transaction(case: Case) -> str | None:
    return None if case.evidence_json is None else msgspec.json.decode(case.evidence_json, type=_About).transaction


def case_view(case: Case, order: Order | None = None) -> CaseView:
    """The case as it is shown; with its order, also what can be done."""
    actions = None
    if order is not None and case.resolved_at_ms is None:
        actions = [str(action) for action in casework.possible(order, Reason(case.reason), _transaction(case))]
    return CaseView(
        case_id=case.case_id,
        order_id=case.order_id,
        reason=case.reason,
        evidence=None if case.evidence_json is None else msgspec.Raw(case.evidence_json.encode()),
        opened_at=rfc3339(case.opened_at_ms),
        resolved_at=None if case.resolved_at_ms is None else rfc3339(case.resolved_at_ms),
        resolution=case.resolution,
        resolved_by=case.resolved_by,
        note=case.note,
        actions=actions,
        order=None if order is None else order_view(order),
    )


def _asked(request: Call, name: str, default: str = "") -> str:
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise Problem("parameter_duplicate", "one at a time", param=name)
    return str(given[0]) if given else default
