"""Pages from the templates beside this file."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Return a page; every text is escaped, and only figures are taken as they are."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("raysys", "evaluation"),
    )
    return environment.get_template(template).render(**values).lstrip()
