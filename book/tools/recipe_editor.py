"""The editor on the page where readers write recipes, and Python for the browser.

`add_recipe_editor(stage)` copies Pyodide and NumPy into the staged book (`browser_python`) and
writes `book/recipe_editor.md`, which the page includes: for paper and readers without scripts the
recipes to begin with and a table; else the editor. Where Python cannot be fetched, the book is
built without the editor, and one sentence says so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from browser_python import NUMPY_VERSION, PYODIDE_VERSION, NotFetchedError, fetch_python, files_of
from browser_python import size_in_megabytes as size_of
from recipe_page import BENCHES, MAX_BUDGET, START_BUDGET

STARTS = {  # files in book/_static/recipes/starts
    "greedy": "greedy",
    "radin": "RADIN",
    "top_k": "top k",
    "assignment": "assignment 3",
}
HEADS = ("recipe", "soup of", "spent", "val", "test", "regret", "minus RADIN")


def add_recipe_editor(stage: Path) -> str:
    """Add the editor to the stage; `write_recipe_page` has written there before.

    Returns: why there is none; empty where there is one.
    """
    book = stage / "book"
    static = book / "_static" / "recipes"
    starts = {name: (static / "starts" / f"{name}.py").read_text("utf-8") for name in STARTS}
    try:
        python = fetch_python()
    except NotFetchedError as error:
        reason = str(error)
        live = f"```{{note}}\n{without_editor(reason)}\n```"
    else:
        reason = ""
        pyodide = book / "_static" / "pyodide"
        pyodide.mkdir(parents=True, exist_ok=True)
        for path in files_of(python):
            shutil.copyfile(path, pyodide / path.name)
        data = json.dumps({"starts": starts}, separators=(",", ":"))
        (static / "data.js").write_text(f"window.radinRecipesData = {data};\n", "utf-8")
        live = f"```{{raw}} html\n{live_html(size_of(python))}\n```"
    table = (book / "recipe_table.md").read_text("utf-8")
    (book / "recipe_editor.md").write_text(f"{still(starts, table)}\n{live}\n", "utf-8")
    return reason


def without_editor(reason: str) -> str:
    """What the page says in the place of the editor."""
    return (
        "This copy of the book was built without the editor, because Python for the browser could "
        f"not be fetched ({reason}); build the book again where it can be."
    )


def still(starts: dict[str, str], table: str) -> str:
    """The recipes to begin with and what they return, in Markdown."""
    shown = "\n\n".join(
        f"```python\n{text}```" for name, text in starts.items() if name != "assignment"
    )
    return f"""\
:::::{{div}} recipe-static

These three recipes are what the editor begins with. Each needs only NumPy and `radin`, and works in
`radin.craft`.

{shown}

What they return on the first {{term}}`soup bench`, each with the same {{term}}`budget`:

{table}
:::::
"""


def live_html(megabytes: int) -> str:
    """The editor and its boxes; hidden until the script has looked at the browser."""
    starts = "".join(f'<option value="{name}">{title}</option>' for name, title in STARTS.items())
    benches = "".join(
        f'<option value="{name}">{name}: {what}</option>' for name, what in BENCHES.items()
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    return f"""\
<div class="radin-recipes" data-python="../_static/pyodide/">
<p class="recipe-note" role="status" hidden></p>
<section class="recipe-live" aria-label="Write and run a recipe" hidden>
<div class="recipe-controls">
<div><label for="recipe-start">begin with</label>
<select id="recipe-start" name="start">{starts}</select></div>
<div><label for="recipe-bench">soup bench</label>
<select id="recipe-bench" name="bench">{benches}</select></div>
<div><label for="recipe-budget">budget B</label>
<input type="number" id="recipe-budget" name="budget" min="1" max="{MAX_BUDGET}" step="1"
value="{START_BUDGET}" required></div>
</div>
<label for="recipe-source">your recipe</label>
<textarea id="recipe-source" rows="22" wrap="off" spellcheck="false" autocapitalize="off"
autocomplete="off" aria-describedby="recipe-keys"></textarea>
<p class="recipe-keys" id="recipe-keys">Enter keeps the indentation, Ctrl+Enter runs, Tab leads to
the buttons. What you write stays in this browser until you reset it.</p>
<p class="recipe-buttons">
<button type="button" value="load">Load Python ({megabytes} MB)</button>
<button type="button" value="run" disabled>Run</button>
<button type="button" value="stop" disabled>Stop</button>
<button type="button" value="reset">Reset</button>
</p>
<p class="recipe-status" role="status"></p>
<pre class="recipe-error" role="alert" tabindex="0" hidden></pre>
<div class="recipe-table" tabindex="0" role="region" aria-label="What the recipe returned" hidden>
<table><caption>What your recipe returned, beside RADIN and greedy at the same budget: its
ingredients, the evaluations spent, accuracy on validation and on test (%), regret, and the
difference to RADIN on test with its paired 95% interval (points)</caption>
<thead><tr>{heads}</tr></thead><tbody></tbody></table></div>
<details class="recipe-printed" hidden><summary>What your recipe printed</summary>
<pre tabindex="0"></pre></details>
<p>Outside the page, after your recipe:</p>
<pre class="recipe-code" tabindex="0"><code></code></pre>
<p class="recipe-made">Runs Pyodide {PYODIDE_VERSION} (Mozilla Public License 2.0) and NumPy
{NUMPY_VERSION} (BSD licence), served by this book.</p>
</section>
</div>
<script defer src="../_static/recipes/data.js"></script>
<script defer src="../_static/recipes/recipes.js"></script>"""
