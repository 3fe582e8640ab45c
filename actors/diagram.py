"""The order's life as a diagram, made from the table: what ARCHITECTURE.md shows is what runs. Pure."""

from actors.lifecycle import CREATED, TRANSITIONS
from actors.order import OrderState


def mermaid() -> str:
    """A Mermaid state diagram of every transition that leads to another state."""
    edges: dict[tuple[OrderState, OrderState], list[str]] = {}
    for event, rules in TRANSITIONS.items():
        for before, rule in rules.items():
            for after in rule.to - {before}:
                edges.setdefault((before, after), []).append(event.__name__)
    states = list(OrderState)
    ordered = sorted(edges.items(), key=lambda edge: (states.index(edge[0][0]), states.index(edge[0][1])))
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in ordered]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {CREATED}", *lines])
