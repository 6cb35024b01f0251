"""Make `static/vendor/bootstrap/bootstrap.css` and `static/vendor/bootstrap-icons/icons.css`. Called by `bin/assets`.

The whole of Bootstrap is 232 kB, of which pages use a tenth; its font of icons is 134 kB more, for two thousand icons.
So both are cut down to what templates, scripts and the portal's Python name: rules whose every class and element is
used, custom properties that somebody reads, and one mask for each icon.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import tinycss2
from tinycss2.ast import AtRule, Node, QualifiedRule

HERE = Path(__file__).resolve().parent.parent
WHOLE_CSS = HERE / "vendor/bootstrap/bootstrap.min.css"
WHOLE_ICONS = HERE / "vendor/bootstrap-icons/bootstrap-icons.svg.gz"
OUR_CSS = [HERE / "static/portal/portal.css"]
SCRIPTS = sorted((HERE / "static/portal").glob("*.js"))
TEMPLATES = sorted(path for path in (HERE / "templates").rglob("*.html") if "admin" not in path.parts)
# Python that gives classes or icons to pages: badges, plans, controls of forms.
PYTHON = sorted(
    path
    for app in ("portal", "accounts", "workspaces", "usage", "clusters", "jobs")
    for name in ("states.py", "models.py", "plans.py", "forms.py", "portal.py")
    for path in (HERE / app).rglob(name)
)
# What Django's widgets and the browser put in, without a template that names it.
GIVEN_ELEMENTS = {"input", "select", "option", "optgroup", "textarea", "label", "ul", "li", "div", "span", "b", "a"}
MADE = "Made by bin/assets from what templates and scripts use; do not edit."


def words_in_strings(source: str) -> set[str]:
    """The words of a program's string literals."""
    found = re.findall(r'"([^"\n]*)"|\'([^\'\n]*)\'|`([^`]*)`', source)
    return {word for parts in found for part in parts for word in re.findall(r"[a-z][\w-]*", part)}


def classes_in_template(source: str) -> set[str]:
    """The classes that a template names, those of all branches of its tags."""
    found: set[str] = set()
    for value in re.findall(r'class="((?:\{%.*?%\}|\{\{.*?\}\}|[^"])*)"', source, re.DOTALL):
        found.update(re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", value, flags=re.DOTALL).split())
    return found


def icons_in_template(source: str) -> set[str]:
    """The icons that a template names."""
    named = re.findall(r'\{% icon "([a-z0-9-]+)"', source)
    return {*named, *re.findall(r"\bbi-([a-z0-9-]+)", source), *re.findall(r'icon="([a-z0-9-]+)"', source)}


def used_icons() -> set[str]:
    found: set[str] = set()
    for path in TEMPLATES:
        found |= icons_in_template(path.read_text())
    for path in [*SCRIPTS, *PYTHON, *OUR_CSS]:
        found |= set(re.findall(r"\bbi-([a-z0-9]+(?:-[a-z0-9]+)*)", path.read_text()))
    looks = (HERE / "portal/templatetags/portal.py").read_text()
    return found | set(re.findall(r'\("is-[a-z]+", "([a-z0-9-]+)"', looks))


def used_classes() -> set[str]:
    found: set[str] = set()
    for path in TEMPLATES:
        found |= classes_in_template(path.read_text())
    for path in [*SCRIPTS, *PYTHON]:
        found |= words_in_strings(path.read_text())
    return found


def used_elements() -> set[str]:
    named = {name for path in TEMPLATES for name in re.findall(r"<([a-z][a-z0-9]*)\b", path.read_text())}
    return named | GIVEN_ELEMENTS | {name for path in SCRIPTS for name in words_in_strings(path.read_text())}


def selectors(prelude: list[Node]) -> list[list[Node]]:
    """A rule's selectors, each by itself."""
    parts: list[list[Node]] = [[]]
    for node in prelude:
        if node.type == "literal" and node.value == ",":
            parts.append([])
        else:
            parts[-1].append(node)
    return parts


def is_used(selector: list[Node], classes: set[str], elements: set[str]) -> bool:
    """Whether each class and element of a selector is; what stands in its parentheses may or may not be."""
    before = ""
    for node in selector:
        if node.type == "ident":
            if before == "." and node.value not in classes:
                return False
            if before not in (".", ":") and node.value not in elements:
                return False
        before = node.value if node.type == "literal" else ""
    return True


def purge(rules: list[Node], classes: set[str], elements: set[str]) -> list[str]:
    """The rules that are used, one a line."""
    kept: list[str] = []
    for rule in rules:
        if isinstance(rule, QualifiedRule):
            used = [part for part in selectors(rule.prelude) if is_used(part, classes, elements)]
            if used:
                head = ",".join(tinycss2.serialize(part).strip() for part in used)
                kept.append(f"{head}{{{tinycss2.serialize(rule.content)}}}")
        elif isinstance(rule, AtRule) and rule.at_keyword in ("media", "supports") and rule.content is not None:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if lines := purge(inner, classes, elements):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{\n" + "\n".join(lines) + "\n}")
        elif isinstance(rule, AtRule):
            kept.append(rule.serialize())
    return kept


def without_unread(css: str, ours: str) -> str:
    """Without the custom properties that nothing reads, and the animations that nothing plays."""
    while True:
        read = set(re.findall(r"var\((--[\w-]+)", css + ours))
        fresh = re.sub(r"(--bs-[\w-]+):[^;}]*(?:;|(?=\}))", lambda m, read=read: m[0] if m[1] in read else "", css)
        fresh = re.sub(r"^[^\n{}]+\{;?\}\n", "", fresh, flags=re.MULTILINE)
        if fresh == css:
            break
        css = fresh
    played = re.findall(r"animation(?:-name)?:([^;}]*)", css)
    return re.sub(
        r"^@keyframes ([\w-]+)\{.*\}\n",
        lambda m: m[0] if any(m[1] in one for one in played) else "",
        css,
        flags=re.MULTILINE,
    )


def bootstrap() -> str:
    whole = WHOLE_CSS.read_text()
    rules = tinycss2.parse_stylesheet(whole, skip_comments=True, skip_whitespace=True)
    version = re.search(r"Bootstrap +v([\d.]+)", whole)
    assert version is not None
    css = "\n".join(line for line in purge(rules, used_classes(), used_elements()) if "@charset" not in line) + "\n"
    css = without_unread(css, "".join(path.read_text() for path in OUR_CSS))
    return f"/*! Bootstrap {version[1]}, MIT, in part. {MADE} */\n{css}"


def icons() -> str:
    whole = gzip.decompress(WHOLE_ICONS.read_bytes()).decode()
    drawn = dict(re.findall(r'<symbol [^>]*?viewBox="0 0 16 16" id="([a-z0-9-]+)">(.*?)</symbol>', whole))
    used = used_icons()
    if missing := sorted(used - drawn.keys()):
        sys.exit(f"Bootstrap Icons has no {', '.join(missing)}.")
    lines = [
        f"/*! Bootstrap Icons 1.13.2, MIT, those that are used. {MADE} */",
        '.bi::before{content:"";display:inline-block;width:1em;height:1em;vertical-align:-.125em;'
        "background:currentColor;mask:var(--icon) center/contain no-repeat;print-color-adjust:exact}",
        "@media (forced-colors:active){.bi::before{background:CanvasText}}",
    ]
    ours = "".join(path.read_text() for path in OUR_CSS)
    for name in sorted(used):
        picture = drawn[name].replace('"', "'").replace("%", "%25").replace("#", "%23")
        picture = picture.replace("<", "%3c").replace(">", "%3e")
        head = "data:image/svg+xml,%3csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3e"
        mask = f'url("{head}{picture}%3c/svg%3e")'
        if f"var(--bi-{name})" in ours:
            lines.append(f":root{{--bi-{name}:{mask}}}")
            mask = f"var(--bi-{name})"
        lines.append(f".bi-{name}{{--icon:{mask}}}")
    return "\n".join(lines) + "\n"


def main(check: bool) -> None:
    stale = []
    for path, content in (
        (HERE / "static/vendor/bootstrap/bootstrap.css", bootstrap()),
        (HERE / "static/vendor/bootstrap-icons/icons.css", icons()),
    ):
        if not path.exists() or path.read_text() != content:
            stale.append(str(path.relative_to(HERE)))
            if not check:
                path.write_text(content)
    if check and stale:
        sys.exit(f"{' and '.join(stale)} are not what templates use now: run bin/assets.")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
