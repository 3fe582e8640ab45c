"""A form credential as a page that sends itself: what the payer's browser posts to the platform."""

from html import escape
from urllib.parse import urlsplit

import msgspec

from holdfast_client.schema import Credential


class _Form(msgspec.Struct, frozen=True):
    action: str
    fields: dict[str, str]
    charset: str = "UTF-8"


def form_page(credential: Credential) -> str:
    """The HTML page to answer the payer's browser with (as UTF-8, `text/html`): it posts the form at once.

    Everything in it is escaped. Its script is inline: a page with a Content-Security-Policy has to allow it. Without
    scripts the payer sees a button.

    Raises:
        ValueError: it is no form credential, or one that would not lead to a web page.
    """
    if credential.type != "form":
        raise ValueError(f"a {credential.type} credential is no form")
    try:
        form = msgspec.convert(credential.value, _Form)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a form: {error}") from error
    if urlsplit(form.action).scheme not in ("http", "https"):
        raise ValueError("the form's action is no web address")
    inputs = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in form.fields.items()
    )
    return _PAGE.format(action=escape(form.action), charset=escape(form.charset), inputs=inputs)


# The prototype's submit: a field may be called `submit` and would stand in for the form's own.
_PAGE = """<!DOCTYPE html>
<html>
<head><meta charset="utf-8"><title>Payment</title></head>
<body>
<form method="post" action="{action}" accept-charset="{charset}">
{inputs}
<noscript><button>&rarr;</button></noscript>
</form>
<script>HTMLFormElement.prototype.submit.call(document.forms[0])</script>
</body>
</html>
"""
