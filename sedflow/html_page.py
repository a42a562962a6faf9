"""Self-contained pages: a template with its style and script, and nothing for a browser to fetch."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def render(template: str, context: dict) -> str:
    """Fill a template that extends ``page.html``; keys that end in ``_json`` are data for the page's script."""
    import jinja2
    import markupsafe

    folder = jinja2.FileSystemLoader(PACKAGE)
    templates = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    # a class name may be broken behind an underscore, on a phone it has to be
    templates.filters["label"] = lambda text: markupsafe.escape(text).replace("_", markupsafe.Markup("_<wbr>"))
    # inside a script element only "</" could end the data early
    data = {
        key: markupsafe.Markup(text.replace("</", "<\\/")) for key, text in context.items() if key.endswith("_json")
    }
    css, javascript = (
        markupsafe.Markup((PACKAGE / name).read_text(encoding="utf-8")) for name in ("page.css", "report_page.js")
    )
    return templates.get_template(template).render(context | data | {"css": css, "javascript": javascript})
