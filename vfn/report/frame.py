"""What a page is put into: head, navigation, style and script, all in the one file."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib import resources

from vfn.report.markup import Section


def document(
    title: str, header: str, sections: Sequence[Section], footer: str, style: str = ""
) -> str:
    """A whole page, which asks for nothing outside of itself.

    Its policy forbids every request, and every script but its own.

    Args:
        title: text of the window.
        header: markup above the navigation.
        sections: those without content are left out.
        footer: text.
        style: class of the body.

    Returns:
        HTML.

    >>> "<title>Two &amp; two</title>" in document("Two & two", "", [], "")
    True
    """
    shown = [section for section in sections if section.content]
    sheet, script = _asset("report.css"), _asset("report.js")
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in shown)
    main = "\n".join(section.markup for section in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{allowed}'">
<title>{escape(title)}</title>
<style>
{sheet}</style>
</head>
<body class="{style}">
<a class="skip" href="#content">Skip to the content</a>
<header>
{header}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="content" tabindex="-1">
{main}
</main>
<footer>{escape(footer)}</footer>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
