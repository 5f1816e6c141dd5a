"""Turn notebooks into README.md and HTML pages, offline, without Quarto.

    python environments/docs.py readme     nbs/index.ipynb to README.md, its pictures into nbs/images/
    python environments/docs.py html       every notebook to _docs/, with a navigation

Pages keep the outputs that the notebooks were committed with: nothing runs here. A page loads nothing from
anywhere else, and its content security policy says so: styles are inline, pictures lie beside it, and the
only script is the formula renderer, copied from an installed package.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from nbconvert.exporters import Exporter
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
FIRST = ["", "tutorials", "foundation"]  # "" is the front page
ROOMS = ["security", "data", "features", "inference", "labels", "calibration", "backtest", "states", "views"]
SHELLS = ["experiments", "workspace", "jobs", "operations", "dashboard", "commands", "cli"]
GROUPS = [*FIRST, *ROOMS, *SHELLS, "results", "governance", "decisions"]  # the order of the navigation
DIRECTIVE = re.compile(r"^#\s*\|.*\n?", re.M)
HIDDEN = re.compile(r"^#\s*\|\s*(hide|default_exp)\b", re.M)
EXPORT = re.compile(r"^#\s*\|\s*export\w*", re.M)
PLACE = r"""(?!(?:[a-z]+:|#|/))([^)"'\s#]+)"""  # a relative link, without its anchor
IN_MARKDOWN = re.compile(r"""(\]\(|(?:src|href)=["'])""" + PLACE)
IN_HTML = re.compile(r"""((?:src|href)=["'])""" + PLACE)
LOADS = r"""<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*["'](?:https?:)?//"""
REMOTE = re.compile(LOADS + r"""|@import|url\(\s*["']?(?:https?:)?//""", re.I)
FORMULA = re.compile(r"\$[^$\n]+\$|\\\(|\\\[")

STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7b; --line: #dde3ea; --code: #f5f7fa; --accent: #0b5fa5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe6ee; --soft: #93a3b3; --line: #2d3945; --code: #1b242d; --accent: #6db3f2; }
  body { background: #12181f; } img { background: white; } }
body { margin: 0; color: var(--ink); font: 16px/1.6 system-ui, sans-serif; display: flex; }
nav { width: 15rem; flex: none; height: 100vh; overflow-y: auto; position: sticky; top: 0; padding: 1rem;
  border-right: 1px solid var(--line); font-size: .85rem; box-sizing: border-box; }
nav h2 { font-size: .75rem; text-transform: uppercase; color: var(--soft); margin: 1.2em 0 .2em; }
nav a { display: block; padding: .1em .4em; border-radius: 4px; }
nav a.here { background: var(--code); font-weight: 600; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
main { flex: 1; min-width: 0; max-width: 54rem; padding: 1rem 2.5rem 4rem; }
blockquote { margin: 0 0 1.5em; padding-left: 1em; border-left: 3px solid var(--accent); color: var(--soft); }
pre, code { font: .84rem/1.5 ui-monospace, monospace; } code { background: var(--code); }
pre { background: var(--code); padding: .7em 1em; overflow-x: auto; border-radius: 6px; margin: .4em 0; }
.export pre { border-left: 3px solid var(--accent); border-radius: 0 6px 6px 0; }
.output pre { background: none; } img { max-width: 100%; } .prompt, .anchor-link { display: none; }
table { border-collapse: collapse; font-size: .84rem; display: block; overflow-x: auto; }
td, th { border: 1px solid var(--line); padding: .25em .6em; text-align: left; vertical-align: top; }
footer { display: flex; justify-content: space-between; margin-top: 3rem; border-top: 1px solid var(--line); }
"""
POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src 'self' file:"
SHELL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title} · researchkit</title><style>{style}</style>{scripts}</head>
<body><nav>{nav}</nav><main>
{body}
<footer><span>{previous}</span><span>{following}</span></footer></main></body></html>
"""
FORMULAS = """<script defer src="{up}formulas/katex.min.js"></script>
<script defer src="{up}formulas/auto-render.min.js"></script>
<script defer src="{up}formulas/start.js"></script>"""
START = r"""renderMathInElement(document.querySelector("main"), {
  output: "mathml", throwOnError: false, delimiters: [
    {left: "$$", right: "$$", display: true}, {left: "$", right: "$", display: false},
    {left: "\\(", right: "\\)", display: false}, {left: "\\[", right: "\\]", display: true}]});
"""


@dataclass(frozen=True)
class Page:
    """One notebook on its way to HTML."""

    path: Path  # below nbs/
    title: str  # of its first heading
    summary: str  # the one line under it

    @property
    def target(self) -> str:
        """Where the page will lie, below the docs folder."""
        return self.path.with_suffix(".html").as_posix()

    @property
    def group(self) -> str:
        """The folder under nbs/: a room, or "" for the front page."""
        return self.path.parts[0] if len(self.path.parts) > 1 else ""

    @property
    def up(self) -> str:
        """The way back to the docs folder."""
        return "../" * (len(self.path.parts) - 1)


def notebook(
    path: Path,  # one notebook
) -> NotebookNode:  # without hidden cells and directive lines; export cells are tagged
    """Read a notebook as its readers shall see it."""
    import nbformat

    page = nbformat.read(path, as_version=4)
    page.metadata["language_info"] = {"name": "python"}
    page.cells = [
        cell for cell in page.cells if not (cell.cell_type == "code" and HIDDEN.search(cell.source))
    ]
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = ["export"] if EXPORT.search(cell.source) else []
            cell.source = DIRECTIVE.sub("", cell.source)
    return page


def describe(
    path: Path,  # one notebook
) -> Page:
    """Find the title and the one-line summary of a notebook."""
    text = "\n".join(cell.source for cell in notebook(path).cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)", text, re.M)
    summary = re.search(r"^> (.+)", text, re.M)
    name = path.stem.lstrip("0123456789_").replace("_", " ")
    return Page(
        path.relative_to(NBS), title[1].strip() if title else name, summary[1].strip() if summary else ""
    )


def reading_order() -> list[Page]:
    """Every notebook under nbs/, in the order in which the navigation shows them."""
    paths = [p for p in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    found = [describe(p) for p in paths]
    if strange := sorted({page.group for page in found} - set(GROUPS)):
        raise ValueError(f"GROUPS gives no place to nbs/{strange[0]}: add it where it shall be read")
    return sorted(found, key=lambda page: (GROUPS.index(page.group), page.path.as_posix()))


@cache
def exporter(
    kind: str,  # "markdown" or "html"
) -> Exporter:
    """An nbconvert exporter that asks nothing of the network."""
    from nbconvert import HTMLExporter, MarkdownExporter
    from traitlets.config import Config

    pictures = ["image/svg+xml", "image/png"]
    texts = ["text/markdown", *pictures, "text/plain"]
    order = texts if kind == "markdown" else ["text/html", *texts]
    config = Config({"NbConvertBase": {"display_data_priority": order}})
    if kind == "markdown":
        return MarkdownExporter(config=config)
    return HTMLExporter(
        config=config, template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    )


# --- the README ---


def readme() -> tuple[str, dict[str, bytes]]:
    """The text of README.md, and the pictures it refers to, by their place under nbs/."""
    given = {"unique_key": "index", "output_files_dir": "images"}
    text, resources = exporter("markdown").from_notebook_node(notebook(NBS / "index.ipynb"), resources=given)
    text = IN_MARKDOWN.sub(lambda m: m[1] + from_root(m[2]), text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return text, {name: data for name, data in resources["outputs"].items()}


def from_root(
    link: str,  # relative to nbs/
) -> str:  # relative to the project
    """Rewrite a link of nbs/index.ipynb for a file that lies one folder above."""
    return link.removeprefix("../") if link.startswith("../") else f"nbs/{link}"


def write_readme() -> None:
    """Write README.md and its pictures."""
    text, pictures = readme()
    for name, data in pictures.items():
        (NBS / name).parent.mkdir(exist_ok=True)
        (NBS / name).write_bytes(data)
    (ROOT / "README.md").write_text(text)


# --- the pages ---


def navigation(
    pages: list[Page],
    here: Page,
) -> str:  # HTML
    """All pages by room, the one that is open marked."""
    parts = []
    for group in GROUPS:
        inside = [page for page in pages if page.group == group]
        parts += [f"<h2>{group}</h2>"] if group and inside else []
        parts += [anchor(page, here, "here" if page == here else "") for page in inside]
    return "\n".join(parts)


def anchor(
    page: Page,  # where to
    here: Page,  # where from
    kind: str = "",  # a CSS class
) -> str:  # HTML
    """A link from one page to another."""
    tip, mark = html.escape(page.summary, quote=True), f' class="{kind}"' if kind else ""
    return f'<a href="{here.up}{page.target}" title="{tip}"{mark}>{html.escape(page.title)}</a>'


def render(
    pages: list[Page],
    number: int,  # which of them
) -> str:  # a whole HTML document
    """One notebook as a page: navigation, body, and the way on."""
    here = pages[number]
    body, _ = exporter("html").from_notebook_node(notebook(NBS / here.path))
    body = IN_HTML.sub(
        lambda m: m[1] + re.sub(r"\.ipynb$", ".html", m[2]), body.replace("celltag_export", "export")
    )
    return SHELL.format(
        policy=POLICY,
        style=STYLE + colours(),
        title=html.escape(here.title),
        nav=navigation(pages, here),
        body=body,
        scripts=FORMULAS.format(up=here.up) if FORMULA.search(body) else "",
        previous=anchor(pages[number - 1], here) if number else "",
        following=anchor(pages[number + 1], here) if number + 1 < len(pages) else "",
    )


@cache
def colours() -> str:
    """CSS that colours code."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="tango", nobackground=True).get_style_defs(".highlight")
    dark = HtmlFormatter(style="nord", nobackground=True).get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"


def copy_formula_renderer(
    into: Path,  # a folder that is made
) -> None:
    """Copy KaTeX, which draws formulas as MathML and so needs no fonts, from the installed Panel."""
    from importlib.util import find_spec

    spec = find_spec("panel")
    found = sorted(Path(str(spec.origin)).parent.glob("dist/bundled/katex/*/dist")) if spec else []
    if not found:
        raise ValueError("formulas: no KaTeX in the installed panel package (dist/bundled/katex)")
    into.mkdir(parents=True)
    for name in ("katex.min.js", "contrib/auto-render.min.js"):
        shutil.copy(found[-1] / name, into / Path(name).name)
    (into / "start.js").write_text(START)


def build(
    into: Path,  # replaced as a whole
) -> list[Path]:  # the pages written
    """Write every page, its pictures, and the formula renderer."""
    pages = reading_order()
    shutil.rmtree(into, ignore_errors=True)
    copy_formula_renderer(into / "formulas")
    for folder in sorted(NBS.rglob("images")):
        shutil.copytree(folder, into / folder.relative_to(NBS))
    for number, page in enumerate(pages):
        (into / page.target).parent.mkdir(parents=True, exist_ok=True)
        (into / page.target).write_text(render(pages, number))
    return [into / page.target for page in pages]


def faults(
    into: Path,  # a folder of built pages
) -> Iterator[str]:  # one sentence each
    """Name what a page asks of the network, and every link that leads nowhere."""
    for path in sorted(into.rglob("*.html")):
        text = re.sub(r"<pre.*?</pre>", "", path.read_text(), flags=re.S)
        where = path.relative_to(into)
        for found in REMOTE.finditer(text):
            yield f"{where}: loads from elsewhere: {found[0][:80]}"
        for link in sorted({unquote(m[2]) for m in IN_HTML.finditer(text)}):
            inside = path.parent / link
            beside = NBS / where.parent / link  # a file of the project that is no page: CONTRIBUTING.md
            if not (inside.exists() or beside.exists()):
                yield f"{where}: leads nowhere: {link}"


def main() -> int:
    """Build what is asked for; exit 1 when a page is at fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["readme", "html"])
    parser.add_argument(
        "--into", type=Path, default=ROOT / "_docs", help="folder for the pages (default: _docs)"
    )
    given = parser.parse_args()
    if given.what == "readme":
        write_readme()
        return 0
    written = build(given.into)
    wrong = list(faults(given.into))
    print(*wrong, f"{len(written)} pages in {given.into}", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
