"""The diagram in ARCHITECTURE.md is the table's."""

from pathlib import Path

from actors.diagram import mermaid


def test_the_diagram_in_architecture_md_is_made_from_the_table() -> None:
    text = Path("ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = text.split("```mermaid\n")[1].split("\n```")[0]
    assert shown == mermaid(), "paste what `python -c 'from actors.diagram import mermaid; print(mermaid())'` prints"
