/* The page where a reader writes a recipe in Python and runs it on a soup bench.
 *
 * Nothing of Python is loaded before the reader asks for it. worker.js runs it; the rules are in radin_lite.py.
 * book/tools/recipe_editor.py writes the controls and the data: the recipes to begin with.
 */
(function () {
  "use strict";

  const DRAFT = "radin-recipe-";
  const OF_ASSIGNMENT = /^def\s+recipe\s*\(\s*\w+\s*,\s*evaluate\b/m;
  const INDENT = "    ";

  /* What was written stays on this machine until it is reset. Some readers forbid that. */
  const drafts = {
    unsaved: {},
    get(name) {
      try { return localStorage.getItem(DRAFT + name) ?? this.unsaved[name]; } catch { return this.unsaved[name]; }
    },
    set(name, text) {
      this.unsaved[name] = text;
      try { localStorage.setItem(DRAFT + name, text); } catch { /* only until the page is left */ }
    },
    drop(name) {
      delete this.unsaved[name];
      try { localStorage.removeItem(DRAFT + name); } catch { /* nothing was kept */ }
    },
  };

  /* With a sign as in print; what rounds to zero is not negative. */
  const points = (value) => {
    const text = Math.abs(value).toFixed(2);
    return `${value < 0 && Number(text) > 0 ? "−" : "+"}${text}`;
  };
  const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  class Editor {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.python = new URL(root.dataset.python, document.baseURI).href;
      this.source = this.find("#recipe-source");
      this.find('[name="start"]').addEventListener("input", () => this.open());
      this.find('[name="bench"]').addEventListener("input", () => this.writeCode());
      this.find('[name="budget"]').addEventListener("input", () => this.writeCode());
      this.source.addEventListener("input", () => { drafts.set(this.start, this.source.value); this.writeCode(); });
      this.source.addEventListener("keydown", (event) => this.press(event));
      for (const name of ["load", "run", "stop", "reset"]) {
        this.button(name).addEventListener("click", () => this[name]());
      }
      this.open();
      this.show("empty");
    }

    find(selector) {
      return this.root.querySelector(selector);
    }

    button(name) {
      return this.find(`[value="${name}"]`);
    }

    get start() {
      return this.find('[name="start"]').value;
    }

    get bench() {
      return this.find('[name="bench"]').value;
    }

    get budget() {
      return this.find('[name="budget"]').valueAsNumber;
    }

    /* empty: no Python; loading; ready; running. */
    show(state, text) {
      this.root.dataset.state = state;
      this.button("load").hidden = state === "ready" || state === "running";
      this.button("load").disabled = state === "loading";
      this.button("run").disabled = state !== "ready";
      this.button("stop").disabled = state !== "running";
      if (text !== undefined) this.find(".recipe-status").textContent = text;
    }

    open() {
      this.source.value = drafts.get(this.start) ?? this.data.starts[this.start];
      this.writeCode();
    }

    reset() {
      drafts.drop(this.start);
      this.open();
      this.source.focus();
    }

    /* Enter keeps the indentation. The tab key is not taken: it leads to the next control, as everywhere. */
    press(event) {
      if (event.key !== "Enter" || event.isComposing) return;
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        if (!this.button("run").disabled) this.run();
        return;
      }
      const before = this.source.value.slice(0, this.source.selectionStart).split("\n").at(-1);
      const indent = /^ */.exec(before)[0] + (/:\s*$/.test(before) ? INDENT : "");
      if (!indent || event.shiftKey) return;
      event.preventDefault();
      const text = `\n${indent}`;
      // The first way can be undone; not every browser has it.
      if (!document.execCommand("insertText", false, text)) {
        this.source.setRangeText(text, this.source.selectionStart, this.source.selectionEnd, "end");
        this.source.dispatchEvent(new Event("input"));
      }
    }

    load() {
      this.show("loading", "Python is being loaded …");
      this.worker?.terminate();
      this.worker = new Worker(new URL("worker.js", this.data.here));
      this.worker.onmessage = ({ data }) => this.hear(data);
      this.worker.onerror = (event) => this.hear({ kind: "failed", message: event.message || "the worker did not start" });
      this.worker.postMessage({ kind: "begin", python: this.python });
    }

    hear({ kind, found, message }) {
      if (kind === "ready") {
        this.show("ready", this.stopped ? "Stopped. Python was started again and is ready." : "Python is ready.");
        this.stopped = false;
      } else if (kind === "done") {
        this.show("ready");
        this.write(found);
      } else {
        this.show(this.root.dataset.state === "loading" ? "empty" : "ready", "");
        this.writeError(`This page failed, not your recipe: ${message}`);
      }
    }

    run() {
      if (!this.isBudgetWhole()) {
        const { min, max } = this.find('[name="budget"]');
        this.clear();
        this.find(".recipe-status").textContent = "";  // of the run before
        this.writeError(`The budget must be a whole number from ${min} to ${max}.`);
        return;
      }
      this.clear();
      this.show("running", "Your recipe runs …");
      this.asked = { bench: this.bench, budget: this.budget };
      this.worker.postMessage({ kind: "run", source: this.source.value, ...this.asked });
    }

    isBudgetWhole() {
      return this.find('[name="budget"]').checkValidity() && Number.isInteger(this.budget);
    }

    stop() {
      this.stopped = true;
      this.load();
    }

    clear() {
      this.find(".recipe-error").hidden = true;
      this.find(".recipe-printed").hidden = true;
      this.find(".recipe-table").hidden = true;
    }

    write({ rows, error, line, printed }) {
      this.find(".recipe-printed").hidden = !printed;
      this.find(".recipe-printed pre").textContent = printed;
      if (error !== undefined) {
        this.find(".recipe-status").textContent = "";
        this.writeError(error);
        if (line) this.mark(line);
        return;
      }
      const [{ members, evaluations }] = rows;
      const { bench, budget } = this.asked;
      const of = members.length === 1 ? `ingredient ${members[0]} alone` : `the soup of ingredients ${members.join(", ")}`;
      this.find(".recipe-status").textContent =
        `Your recipe returned ${of} and paid ${evaluations} of ${counted(budget, "evaluation")} on ${bench}.`;
      this.find(".recipe-table tbody").replaceChildren(...rows.map((row) => this.line(row)));
      this.find(".recipe-table").hidden = false;
    }

    line(row) {
      const line = document.createElement("tr");
      const difference = row.minus_radin?.map(points);
      const texts = [row.recipe, row.members.join(" "), row.evaluations, row.val.toFixed(2), row.test.toFixed(2),
        row.regret.toFixed(2), difference ? `${difference[0]} (${difference[1]} to ${difference[2]})` : ""];
      texts.forEach((text, at) => {
        const cell = document.createElement(at ? "td" : "th");
        if (!at) cell.scope = "row";
        cell.textContent = text;
        line.append(cell);
      });
      return line;
    }

    writeError(text) {
      const box = this.find(".recipe-error");
      box.hidden = false;
      box.textContent = text;
    }

    /* The cursor goes to the line of the error, for readers who go on by keyboard. */
    mark(line) {
      const lines = this.source.value.split("\n");
      const at = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
      this.source.setSelectionRange(at, at + (lines[line - 1] ?? "").length);
    }

    /* The same outside the page. */
    writeCode() {
      if (!this.isBudgetWhole()) return;
      const lines = OF_ASSIGNMENT.test(this.source.value)
        ? ["import torch", "", "begun = recipe  # what you wrote above", "", "",
          "def recipe(bank, evaluate, budget):", "    return torch.as_tensor(begun(bank, evaluate, budget))"]
        : ["import radin", "", `bench = radin.SoupBench.load("${this.bench}")`, "soup = radin.craft(",
          `    bench.val, bench.evaluator(), budget=${this.budget}, recipe=recipe`, ")", "print(soup)",
          `radin.compare(bench, {"yours": recipe, "greedy": "greedy"}, budgets=${this.budget})`];
      this.find(".recipe-code code").textContent = lines.join("\n");
    }
  }

  const UNUSABLE = "This browser cannot run Python in a page: it has no WebAssembly or no workers.";
  const FROM_A_FILE = "This page was opened as a file, and browsers run no Python from files. Serve the book, with " +
    "`make serve` or `python -m http.server` in its folder, and open the address that it prints.";

  function start() {
    const data = window.radinRecipesData;
    document.querySelectorAll(".radin-recipes").forEach((root) => {
      const isFile = window.location.protocol === "file:";
      const usable = data && window.Worker && window.WebAssembly && !isFile;
      if (!usable) {
        const note = root.querySelector(".recipe-note");
        note.textContent = isFile ? FROM_A_FILE : UNUSABLE;
        note.hidden = false;
        return;
      }
      root.querySelector(".recipe-live").hidden = false;
      document.querySelectorAll(".recipe-static").forEach((still) => { still.hidden = true; });
      window.radinRecipes = new Editor(root, data);
    });
  }

  // Of this script, which lies beside worker.js.
  if (window.radinRecipesData) window.radinRecipesData.here = document.currentScript.src;
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
