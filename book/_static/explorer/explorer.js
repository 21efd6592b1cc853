/* The budget explorer: RADIN and its rivals on a soup bench, in the page, without a kernel.
 *
 * The first half holds the rules of the recipes, on integers: numbers of right answers. They are the rules of
 * radin/recipes/rules.py and of `sort_keys` in radin/ranking/rank.py, and give what `radin.craft` gives;
 * tests/book/test_explorer.py compares the two. The second half is the page: controls, two Vega-Lite charts, a table.
 *
 * A zoo of N ingredients comes as
 *   {N, val, test, fast, soup_val, soup_test, draws, random}
 * where `val` and `test` are numbers of images, `fast` (right answers of every ensemble on validation), `soup_val`
 * and `soup_test` have one entry for each subset, at row bitmask - 1, `draws[seed]` lists all rows in the
 * order in which Monte Carlo draws them, and `random[seed][M]` the first draws of the random recipe among M
 * candidates. */
(function () {
  "use strict";

  /* ------------------------------------------------------------------ the recipes */

  const sizeOf = (row) => {
    let bits = 0;
    for (let mask = row + 1; mask; mask &= mask - 1) bits += 1;
    return bits;
  };

  /* Rows of the candidates, best first: fast estimate plus prior, then more ingredients, then lower bitmask. */
  function rank(zoo, rows, prior) {
    const merit = new Map(rows.map((row) => {
      const score = (zoo.fast[row] * 100) / zoo.val + (prior * sizeOf(row)) / zoo.N;
      return [row, Math.round(score * 1e9)];
    }));
    return [...rows].sort((a, b) => merit.get(b) - merit.get(a) || sizeOf(b) - sizeOf(a) || a - b);
  }

  /* What is returned after 1, 2, ... evaluations: the best on validation, the first of equals. */
  function returned(zoo, tried, limit) {
    const answers = [];
    let best = tried[0];
    for (let spent = 0; spent < limit; spent += 1) {
      if (spent < tried.length && zoo.soup_val[tried[spent]] > zoo.soup_val[best]) best = tried[spent];
      answers.push(best);
    }
    return answers;
  }

  const single = (k) => 2 ** k - 1;

  /* Best ingredient first; each other one is tried in order of accuracy and kept when it does no harm. */
  function greedy(zoo, limit) {
    const byAccuracy = [...Array(zoo.N).keys()].sort((a, b) => zoo.fast[single(b)] - zoo.fast[single(a)] || a - b);
    let kept = single(byAccuracy[0]);
    let reached = zoo.fast[kept];
    const tried = [];
    const answers = [];
    for (let spent = 0; spent < limit; spent += 1) {
      if (spent + 1 < zoo.N) {
        const next = kept + 2 ** byAccuracy[spent + 1];
        tried.push(next);
        if (zoo.soup_val[next] >= reached) [kept, reached] = [next, zoo.soup_val[next]];
      }
      answers.push(kept);
    }
    return { tried, answers };
  }

  /* Every recipe at every budget up to `limit`: {recipe: {tried: rows in order, answers: a row for each budget}}. */
  function replay(zoo, { prior, candidates, seed }, limit) {
    const rows = zoo.draws[seed].slice(0, candidates);
    const ranked = rank(zoo, rows, prior).slice(0, limit);
    const drawn = zoo.random[seed][candidates].map((i) => rows[i]).slice(0, limit);
    const level = (row, tried) => ({ tried, answers: Array(limit).fill(row) });
    const all = 2 ** zoo.N - 2;
    let best = single(0);
    for (let k = 1; k < zoo.N; k += 1) if (zoo.fast[single(k)] > zoo.fast[best]) best = single(k);
    return {
      radin: { tried: ranked, answers: returned(zoo, ranked, limit) },
      greedy: greedy(zoo, limit),
      random: { tried: drawn, answers: returned(zoo, drawn, limit) },
      uniform: level(all, [all]),
      best_single: level(best, []),
    };
  }

  const oracle = (zoo) => zoo.soup_test.indexOf(Math.max(...zoo.soup_test));

  window.radinExplorer = { rank, replay, oracle, explorers: [] };

  /* ------------------------------------------------------------------ the page */

  const percent = (right, images) => (right * 100) / images;
  const members = (row) => {
    const found = [];
    for (let k = 0; (row + 1) >> k; k += 1) if (((row + 1) >> k) & 1) found.push(k);
    return found;
  };

  function themed(spec, truth) {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--pst-color-text-base").trim() || "#222";
    const line = style.getPropertyValue("--pst-color-border").trim() || "#ccc";
    const axis = { labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line };
    const legend = { labelColor: text, titleColor: text };
    // Black lines and text would not be visible in the dark, and the axis names the accuracy that it shows.
    const shown = JSON.parse(JSON.stringify(spec).replaceAll("#222222", text)
      .replaceAll('"accuracy of the soup (%)"', `"accuracy on ${truth} (%)"`));
    return { ...shown, config: { ...shown.config, background: "transparent", axis, legend, title: { color: text } } };
  }

  class Explorer {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.views = {};
      this.drawing = Promise.resolve();
      root.querySelectorAll("input, select").forEach((control) => control.addEventListener("input", () => this.update()));
      this.control("truth").addEventListener("input", () => this.draw()); // another axis
      new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    }

    control(name) {
      return this.root.querySelector(`[name="${name}"]`);
    }

    settings() {
      return {
        zoo: this.control("zoo").value,
        budget: Number(this.control("budget").value),
        prior: Number(this.control("prior").value),
        candidates: this.data.candidates[this.control("zoo").value][Number(this.control("candidates").value)],
        seed: Number(this.control("seed").value),
        truth: this.control("truth").value,
        recipes: [...this.root.querySelectorAll('[name="recipe"]:checked')].map((box) => box.value),
      };
    }

    /* One drawing after the other: day may turn to night while the first is not done. */
    draw() {
      this.drawing = this.drawing.then(() => this.drawCharts());
      return this.drawing;
    }

    async drawCharts() {
      const truth = this.settings().truth === "val" ? "validation" : "test";
      for (const name of ["plane", "curve"]) {
        const box = this.root.querySelector(`.explorer-${name}`);
        const made = await window.vegaEmbed(box, themed(this.data.charts[name], truth), {
          renderer: "svg", actions: false, logLevel: 1, // errors only: an empty chart, before its first data, is none
        });
        if (this.views[name]) this.views[name].finalize();
        this.views[name] = made.view;
      }
      await this.update();
    }

    async update() {
      const chosen = this.settings();
      const zoo = this.data.zoos[chosen.zoo];
      const found = replay(zoo, chosen, this.data.limit);
      const best = oracle(zoo);
      this.writeTable(chosen, zoo, found, best);
      await this.show("plane", { soups: this.points(chosen, zoo, found, best) });
      await this.show("curve", { lines: this.lines(chosen, zoo, found, best), now: [{ budget: chosen.budget }] });
      this.root.dataset.ready = "yes";
    }

    async show(chart, tables) {
      const view = this.views[chart];
      if (!view) return;
      for (const [name, values] of Object.entries(tables)) view.data(name, values);
      await view.runAsync();
    }

    points(chosen, zoo, found, best) {
      const { tried, answers } = found.radin;
      const candidates = new Set(zoo.draws[chosen.seed].slice(0, chosen.candidates));
      const evaluated = new Map(tried.slice(0, chosen.budget).map((row, at) => [row, at + 1]));
      const [right, images] = chosen.truth === "val" ? [zoo.soup_val, zoo.val] : [zoo.soup_test, zoo.test];
      const winner = answers[chosen.budget - 1];
      return zoo.fast.map((fast, row) => ({
        fast: percent(fast, zoo.val),
        truth: percent(right[row], images),
        ingredients: members(row).join(", "),
        turn: evaluated.get(row) ?? null,
        state: row === winner ? "returned by radin" : row === best ? "oracle"
          : evaluated.has(row) ? "evaluated" : candidates.has(row) ? "candidate" : "not drawn",
      }));
    }

    lines(chosen, zoo, found, best) {
      const values = [];
      const add = (recipe, row, at) => values.push({
        recipe, budget: at + 1, test: percent(zoo.soup_test[row], zoo.test), ingredients: members(row).join(", "),
      });
      for (const recipe of chosen.recipes) found[recipe].answers.forEach((row, at) => add(recipe, row, at));
      for (let at = 0; at < this.data.limit; at += 1) add("oracle", best, at);
      return values;
    }

    /* The same in words and numbers, for screen readers and to copy. */
    writeTable(chosen, zoo, found, best) {
      const top = percent(zoo.soup_test[best], zoo.test);
      const entries = chosen.recipes.map((recipe) => {
        const row = found[recipe].answers[chosen.budget - 1];
        const spent = Math.min(chosen.budget, found[recipe].tried.length);
        return [recipe, row, spent];
      });
      entries.push(["oracle", best, "all"]);
      const body = this.root.querySelector("tbody");
      body.replaceChildren(...entries.map(([recipe, row, spent]) => {
        const line = document.createElement("tr");
        line.dataset.recipe = recipe;
        line.dataset.row = row;
        const test = percent(zoo.soup_test[row], zoo.test);
        const texts = [recipe.replace("_", " "), members(row).join(" "), spent,
          percent(zoo.soup_val[row], zoo.val).toFixed(2), test.toFixed(2), (top - test).toFixed(2)];
        texts.forEach((text, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (!at) cell.scope = "row";
          cell.textContent = text;
          line.append(cell);
        });
        return line;
      }));
      for (const name of ["budget", "prior", "candidates", "seed"]) {
        const shown = name === "prior" ? chosen.prior.toFixed(1) : String(chosen[name]);
        this.root.querySelector(`output[for$="-${name}"]`).textContent = shown;
        this.control(name).setAttribute("aria-valuetext", shown);
      }
      const winner = found.radin.answers[chosen.budget - 1];
      const test = percent(zoo.soup_test[winner], zoo.test);
      const spent = Math.min(chosen.budget, found.radin.tried.length);
      this.root.querySelector(".explorer-summary").textContent =
        `RADIN evaluates ${spent} of ${chosen.candidates} candidates and returns the soup of ingredients ` +
        `${members(winner).join(", ")}: ${test.toFixed(2)}% on test, regret ${(top - test).toFixed(2)} points.`;
      this.root.querySelector(".explorer-code code").textContent =
        "import radin\n\n" +
        `bench = radin.SoupBench.load("${chosen.zoo}")\n` +
        `drawn = radin.monte_carlo(\n    ${zoo.N}, ${chosen.candidates}, seed=${chosen.seed}\n)\n` +
        `soup = radin.craft(\n    bench.val,\n    bench.evaluator("val"),\n    budget=${chosen.budget},\n` +
        `    candidates=drawn,\n    prior=${chosen.prior.toFixed(1)},\n)\n` +
        "print(soup.members)\nprint(bench.regret(soup.weights))";
    }
  }

  function start() {
    document.querySelectorAll(".radin-explorer").forEach((root) => {
      if (!window.vegaEmbed || !window.radinExplorerData) return; // the figure and the table stay
      const explorer = new Explorer(root, window.radinExplorerData);
      window.radinExplorer.explorers.push(explorer);
      const show = (live) => {
        root.querySelector(".explorer-live").hidden = !live;
        document.querySelectorAll(".explorer-static").forEach((still) => { still.hidden = live; });
      };
      show(true); // charts take their width from what is shown
      explorer.draw().catch((error) => { show(false); throw error; });
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
