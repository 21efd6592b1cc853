/* The budget explorer: RADIN and its rivals on a soup bench, in the page, without a kernel.
 *
 * The first half holds the rules of the recipes, on integers: numbers of right answers. They are the rules of
 * radin/recipes/rules.py and of `sort_keys` in radin/ranking/rank.py, and give what `radin.craft` gives;
 * tests/book/test_explorer.py compares the two. The second half is the page: controls, two Vega-Lite charts, a table.
 *
 * A zoo of N ingredients comes as
 *   {N, val, test, fast, nll_place, soup_val, soup_test, draws, random}
 * where `val` and `test` are numbers of images, `fast` (right answers of every ensemble on validation), `nll_place`
 * (its place in the order by likelihood), `soup_val` and `soup_test` have one entry for each subset, at row
 * bitmask - 1, `draws[seed]` lists all rows in the
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

  const bestSingle = (zoo) => {
    let best = single(0);
    for (let k = 1; k < zoo.N; k += 1) if (zoo.fast[single(k)] > zoo.fast[best]) best = single(k);
    return best;
  };

  /* The best ingredient, which is free, unless a soup is better; candidates come in the order of likelihood. */
  function safe(zoo, byLikelihood, limit) {
    const tried = byLikelihood.filter((row) => sizeOf(row) > 1).slice(0, limit);
    const answers = [];
    let best = bestSingle(zoo);
    let reached = zoo.fast[best];
    for (let spent = 0; spent < limit; spent += 1) {
      if (spent < tried.length && zoo.soup_val[tried[spent]] > reached) {
        [best, reached] = [tried[spent], zoo.soup_val[tried[spent]]];
      }
      answers.push(best);
    }
    return { tried, answers };
  }

  /* Every recipe at every budget up to `limit`: {recipe: {tried: rows in order, answers: a row for each budget}}. */
  function replay(zoo, { prior, candidates, seed }, limit) {
    const rows = zoo.draws[seed].slice(0, candidates);
    const ranked = rank(zoo, rows, prior).slice(0, limit);
    const byLikelihood = [...rows].sort((a, b) => zoo.nll_place[a] - zoo.nll_place[b]);
    const likely = byLikelihood.slice(0, limit);
    const drawn = zoo.random[seed][candidates].map((i) => rows[i]).slice(0, limit);
    const level = (row, tried) => ({ tried, answers: Array(limit).fill(row) });
    const all = 2 ** zoo.N - 2;
    return {
      radin: { tried: ranked, answers: returned(zoo, ranked, limit) },
      radin_nll: { tried: likely, answers: returned(zoo, likely, limit) },
      safe: safe(zoo, byLikelihood, limit),
      greedy: greedy(zoo, limit),
      random: { tried: drawn, answers: returned(zoo, drawn, limit) },
      uniform: level(all, [all]),
      best_single: level(bestSingle(zoo), []),
    };
  }

  const oracle = (zoo) => zoo.soup_test.indexOf(Math.max(...zoo.soup_test));

  window.radinExplorer = { rank, replay, oracle, explorers: [] };

  /* ------------------------------------------------------------------ the page */

  const ALL_DRAWS = "all";
  const percent = (right, images) => (right * 100) / images;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
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

  /* The values of a soup for each draw, as one number and its reach. */
  function spread(values) {
    return { mean: mean(values), low: Math.min(...values), high: Math.max(...values) };
  }

  class Explorer {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.views = {};
      this.drawing = Promise.resolve();
      root.querySelectorAll("input, select").forEach((control) => control.addEventListener("input", () => this.update()));
      this.control("truth").addEventListener("input", () => this.draw()); // another axis
      root.querySelectorAll(".explorer-task").forEach((task) => task.addEventListener("toggle", () => this.begin(task)));
      new ResizeObserver(() => this.fit()).observe(root);
      new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    }

    control(name) {
      return this.root.querySelector(`[name="${name}"]`);
    }

    /* A task that is unfolded sets the controls. */
    begin(task) {
      if (!task.open) return;
      const { recipes, ...values } = JSON.parse(task.dataset.settings);
      for (const [name, value] of Object.entries(values)) this.control(name).value = value;
      this.root.querySelectorAll('[name="recipe"]').forEach((box) => { box.checked = recipes.includes(box.value); });
      this.draw();
    }

    settings() {
      const seed = this.control("seed").value;
      return {
        zoo: this.control("zoo").value,
        budget: Number(this.control("budget").value),
        prior: Number(this.control("prior").value),
        candidates: this.data.candidates[this.control("zoo").value][Number(this.control("candidates").value)],
        seeds: seed === ALL_DRAWS ? this.data.zoos[this.control("zoo").value].draws.map((_, s) => s) : [Number(seed)],
        truth: this.control("truth").value,
        recipes: [...this.root.querySelectorAll('[name="recipe"]:checked')].map((box) => box.value),
      };
    }

    /* One drawing after the other: day may turn to night while the first is not done. */
    draw() {
      this.drawing = this.drawing.then(() => this.drawCharts());
      return this.drawing;
    }

    /* The charts are as wide as their boxes, which get their width from the page. */
    fit() {
      for (const [name, view] of Object.entries(this.views)) view.width(this.box(name).clientWidth).runAsync();
    }

    box(chart) {
      return this.root.querySelector(`.explorer-${chart}`);
    }

    async drawCharts() {
      const truth = this.settings().truth === "val" ? "validation" : "test";
      for (const name of ["plane", "curve"]) {
        const spec = { ...themed(this.data.charts[name], truth), width: this.box(name).clientWidth };
        const made = await window.vegaEmbed(this.box(name), spec, {
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
      const found = chosen.seeds.map((seed) => replay(zoo, { ...chosen, seed }, this.data.limit));
      const best = oracle(zoo);
      this.write(chosen, zoo, found, best);
      const points = this.points(chosen, zoo, found, best);
      const near = this.near(points);
      this.root.querySelector(".explorer-outside").textContent = near.length === points.length ? ""
        : `${points.length - near.length} of ${points.length} soups lie outside this chart: their estimate or their ` +
          "accuracy is lower than that of nearly all candidates.";
      await this.show("plane", { soups: near }, {});
      await this.show("curve", { lines: this.lines(chosen, zoo, found, best), now: [{ budget: chosen.budget }] },
        { prior: chosen.prior });
      this.root.dataset.ready = "yes";
    }

    async show(chart, tables, signals) {
      const view = this.views[chart];
      if (!view) return;
      for (const [name, values] of Object.entries(tables)) view.data(name, values);
      for (const [name, value] of Object.entries(signals)) view.signal(name, value);
      await view.runAsync();
    }

    /* Every soup with its state: in this draw of candidates, or in any of them. */
    points(chosen, zoo, found, best) {
      const candidates = new Set(chosen.seeds.flatMap((seed) => zoo.draws[seed].slice(0, chosen.candidates)));
      const turns = new Map();
      found.forEach(({ radin: ours }) => ours.tried.slice(0, chosen.budget).forEach((row, at) => {
        turns.set(row, [...(turns.get(row) ?? []), at + 1]);
      }));
      const turn = (row) => {
        if (!turns.has(row)) return "no";
        const of = turns.get(row);
        return found.length === 1 ? `number ${of[0]}` : `in ${of.length} of ${found.length} draws`;
      };
      const winners = new Set(found.map(({ radin: ours }) => ours.answers[chosen.budget - 1]));
      const [right, images] = chosen.truth === "val" ? [zoo.soup_val, zoo.val] : [zoo.soup_test, zoo.test];
      return zoo.fast.map((fast, row) => ({
        row,
        fast: percent(fast, zoo.val),
        truth: percent(right[row], images),
        ingredients: members(row).join(", "),
        turn: turn(row),
        state: winners.has(row) ? "returned by radin" : row === best ? "oracle"
          : turns.has(row) ? "evaluated" : candidates.has(row) ? "candidate" : "not drawn",
      }));
    }

    /* The points where nearly all candidates are, and every point that matters. */
    near(points) {
      const matters = points.filter(({ state }) => state !== "not drawn" && state !== "candidate");
      const drawn = points.filter(({ state }) => state !== "not drawn");
      const edge = (axis) => {
        const sorted = drawn.map((point) => point[axis]).sort((a, b) => a - b);
        return Math.min(sorted[Math.floor(this.data.edge * sorted.length)], ...matters.map((point) => point[axis]));
      };
      const [left, bottom] = [edge("fast"), edge("truth")];
      return points.filter(({ fast, truth }) => fast >= left && truth >= bottom);
    }

    lines(chosen, zoo, found, best) {
      const values = [];
      const add = (recipe, rows, at) => {
        const test = spread(rows.map((row) => percent(zoo.soup_test[row], zoo.test)));
        const soups = new Set(rows);
        const ingredients = soups.size === 1 ? members(rows[0]).join(", ") : `${soups.size} different soups`;
        values.push({ recipe, budget: at + 1, test: test.mean, low: test.low, high: test.high, ingredients });
      };
      for (let at = 0; at < this.data.limit; at += 1) {
        for (const recipe of chosen.recipes) {
          add(this.data.labels[recipe], found.map((one) => one[recipe].answers[at]), at);
        }
        add("oracle", [best], at);
      }
      return values;
    }

    /* The same in words and numbers, for screen readers and to copy. */
    write(chosen, zoo, found, best) {
      const top = percent(zoo.soup_test[best], zoo.test);
      const entries = chosen.recipes.map((recipe) => {
        const rows = found.map((one) => one[recipe].answers[chosen.budget - 1]);
        const spent = Math.min(chosen.budget, found[0][recipe].tried.length);
        return [recipe, rows, spent];
      });
      entries.push(["oracle", [best], "all"]);
      this.root.querySelector(".explorer-table tbody").replaceChildren(...entries.map(([recipe, rows, spent]) => {
        const line = document.createElement("tr");
        line.dataset.recipe = recipe;
        line.dataset.rows = rows.join(" ");
        const test = spread(rows.map((row) => percent(zoo.soup_test[row], zoo.test)));
        const soups = new Set(rows);
        const texts = [this.nameOf(recipe, chosen), soups.size === 1 ? members(rows[0]).join(" ") : `${soups.size} soups`,
          spent, mean(rows.map((row) => percent(zoo.soup_val[row], zoo.val))).toFixed(2), test.mean.toFixed(2),
          (top - test.mean).toFixed(2)];
        texts.forEach((text, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (!at) cell.scope = "row";
          cell.textContent = text;
          line.append(cell);
        });
        if (soups.size > 1) {
          const reach = document.createElement("small");
          reach.textContent = `${test.low.toFixed(2)} to ${test.high.toFixed(2)}`;
          line.cells[4].append(document.createElement("br"), reach);
        }
        return line;
      }));
      for (const name of ["budget", "prior", "candidates"]) {
        const shown = name === "prior" ? chosen.prior.toFixed(1) : String(chosen[name]);
        this.root.querySelector(`output[for$="-${name}"]`).textContent = shown;
        this.control(name).setAttribute("aria-valuetext", shown);
      }
      this.root.querySelector(".explorer-summary").textContent = this.summary(chosen, zoo, found, top);
      this.root.querySelector(".explorer-code code").textContent = this.code(chosen, zoo);
    }

    /* The prior stands beside the name wherever it is not the default. */
    nameOf(recipe, chosen) {
      const name = this.data.labels[recipe] ?? recipe;
      return recipe === "radin" && chosen.prior > 0 ? `${name} λ=${chosen.prior.toFixed(1)}` : name;
    }

    summary(chosen, zoo, found, top) {
      const winners = found.map(({ radin: ours }) => ours.answers[chosen.budget - 1]);
      const test = spread(winners.map((row) => percent(zoo.soup_test[row], zoo.test)));
      const spent = Math.min(chosen.budget, found[0]["radin"].tried.length);
      const regret = `regret ${(top - test.mean).toFixed(2)} points.`;
      if (found.length === 1) {
        return `RADIN evaluates ${spent} of ${chosen.candidates} candidates and returns the soup of ingredients ` +
          `${members(winners[0]).join(", ")}: ${test.mean.toFixed(2)}% on test, ${regret}`;
      }
      return `RADIN evaluates ${spent} of ${chosen.candidates} candidates. Over ${found.length} draws of them its soups ` +
        `have ${test.mean.toFixed(2)}% on test (${test.low.toFixed(2)} to ${test.high.toFixed(2)}), ${regret}`;
    }

    code(chosen, zoo) {
      const several = chosen.seeds.length > 1;
      const craft = [
        "drawn = radin.monte_carlo(",
        `    ${zoo.N}, ${chosen.candidates}, seed=${several ? "seed" : chosen.seeds[0]}`,
        ")",
        "soup = radin.craft(",
        "    bench.val,",
        '    bench.evaluator("val"),',
        `    budget=${chosen.budget},`,
        "    candidates=drawn,",
        `    prior=${chosen.prior.toFixed(1)},`,
        ")",
      ];
      return [
        "import radin",
        "",
        `bench = radin.SoupBench.load("${chosen.zoo}")`,
        ...(several
          ? ["regrets = []", `for seed in range(${chosen.seeds.length}):`, ...craft.map((line) => `    ${line}`),
            "    regrets.append(bench.regret(soup.weights))", "print(sum(regrets) / len(regrets))"]
          : [...craft, "print(soup.members)", "print(bench.regret(soup.weights))"]),
      ].join("\n");
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
