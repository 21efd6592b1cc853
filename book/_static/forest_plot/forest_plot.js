/* The forest plot of the collection of zoos: choose a contrast and some designs, in the page, without a kernel.
 *
 * `window.radinForestPlotData` comes from book/tools/forest_plot.py:
 *   {contrasts: [{title, unit, rows: [{design, zoos, effect, error, low, high}]}]}
 * with the mean effect over the zoos of each design, its standard error and its 95% interval. The first half of this
 * file is arithmetic, the second half the page: controls, a drawing (SVG), a table with the same numbers. What drawings
 * share is in book/_static/drawing/drawing.js. */
(function () {
  "use strict";

  const { element, ticks, tickTexts, whenReady } = window.radinDrawing;

  /* ------------------------------------------------------------------ arithmetic */

  const NORMAL_QUANTILE = 1.959963984540054; // at 97.5%

  /* The plain mean of the designs' effects, with a normal interval from their standard errors. */
  function pooled(rows) {
    if (!rows.length) return null;
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const effect = sum(rows.map((row) => row.effect)) / rows.length;
    const half = (NORMAL_QUANTILE * Math.sqrt(sum(rows.map((row) => row.error ** 2)))) / rows.length;
    return { effect, low: effect - half, high: effect + half, zoos: sum(rows.map((row) => row.zoos)) };
  }

  window.radinForestPlot = { pooled, plots: [] };

  /* ------------------------------------------------------------------ the page */

  const number = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const interval = (row) => `${number(row.low)} to ${number(row.high)}`;
  const favours = (row) => (row.low > 0 ? "above" : row.high < 0 ? "below" : "across");

  class ForestPlot {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      root.querySelectorAll("input, select").forEach((control) => control.addEventListener("input", () => this.update()));
      root.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => {
        this.boxes().forEach((box) => { box.checked = button.value === "all"; });
        this.update();
      }));
      this.drawing = root.querySelector(".forest-drawing");
      new ResizeObserver(() => this.draw()).observe(this.drawing);
    }

    boxes() {
      return [...this.root.querySelectorAll('[name="design"]')];
    }

    chosen() {
      const contrast = this.data.contrasts[Number(this.root.querySelector('[name="contrast"]').value)];
      const names = new Set(this.boxes().filter((box) => box.checked).map((box) => box.value));
      const rows = contrast.rows.filter((row) => names.has(row.design));
      return { contrast, rows, mean: pooled(rows) };
    }

    update() {
      this.write();
      this.draw();
      this.root.dataset.ready = "yes";
    }

    /* The numbers, for screen readers and to copy. */
    write() {
      const { contrast, rows, mean } = this.chosen();
      const summary = this.root.querySelector(".forest-summary");
      summary.textContent = mean
        ? `Mean of ${rows.length === 1 ? "one design" : `${rows.length} designs`}, in ${contrast.unit}: ` +
          `${number(mean.effect)} (${interval(mean)}).`
        : "Choose at least one design.";
      const entries = rows.map((row) => [row.design, row]);
      if (mean) entries.push(["mean", mean]);
      this.root.querySelector("tbody").replaceChildren(...entries.map(([name, row]) => {
        const line = document.createElement("tr");
        line.dataset.design = name;
        [name, row.zoos, number(row.effect), interval(row)].forEach((text, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (!at) cell.scope = "row";
          cell.textContent = text;
          line.append(cell);
        });
        return line;
      }));
    }

    /* One row for each design and, below a line, the mean. On a phone a name stands above its interval. */
    draw() {
      const { contrast, rows, mean } = this.chosen();
      const width = this.drawing.clientWidth;
      if (!width || !mean) {
        this.drawing.replaceChildren();
        return;
      }
      const entries = [...rows, { ...mean, design: "mean" }];
      const narrow = width < 520;
      const [size, step, left, right] = narrow ? [13, 40, 12, 12] : [14, 28, 190, 16];
      const bottom = entries.length * step + 14;
      const marks = ticks(Math.min(0, ...entries.map((row) => row.low)), Math.max(0, ...entries.map((row) => row.high)),
        narrow ? 4 : 7);
      const [first, last] = [marks[0], marks[marks.length - 1]];
      const x = (value) => left + ((value - first) / (last - first)) * (width - left - right);
      const svg = element("svg", {
        width, height: bottom + 52, role: "img", "font-size": size,
        "aria-label": `Forest plot of ${contrast.title}: a dot and a bar for each design; the table below has the numbers.`,
      });
      const texts = tickTexts(marks);
      marks.forEach((mark, at) => {
        svg.append(element("line", { x1: x(mark), x2: x(mark), y1: 0, y2: bottom, class: "forest-grid" }));
        svg.append(element("text", { x: x(mark), y: bottom + 18, "text-anchor": "middle" }, texts[at]));
      });
      svg.append(element("line", { x1: x(0), x2: x(0), y1: 0, y2: bottom, class: "forest-zero" }));
      svg.append(element("text", { x: left + (width - left - right) / 2, y: bottom + 42, "text-anchor": "middle" },
        `first minus second (${contrast.unit})`));
      entries.forEach((row, at) => {
        const isMean = at === rows.length;
        const middle = 12 + at * step + (narrow ? 22 : step / 2 - 6);
        const name = `${row.design} (${row.zoos})`;
        svg.append(narrow ? element("text", { x: 0, y: middle - 10 }, name)
          : element("text", { x: left - 12, y: middle + 5, "text-anchor": "end" }, name));
        if (isMean) {
          const y = 6 + at * step;
          svg.append(element("line", { x1: 0, x2: width, y1: y, y2: y, class: "forest-grid" }));
        }
        const group = element("g", { class: `forest-${favours(row)}`, "data-design": row.design });
        group.append(element("line", { x1: x(row.low), x2: x(row.high), y1: middle, y2: middle, "stroke-width": 3 }));
        group.append(isMean
          ? element("path", { d: `M${x(row.effect) - 8},${middle}l8,-8l8,8l-8,8z` })
          : element("circle", { cx: x(row.effect), cy: middle, r: 5.5 }));
        group.append(element("title", {}, `${row.design}: ${number(row.effect)} (${interval(row)})`));
        svg.append(group);
      });
      this.drawing.replaceChildren(svg);
    }
  }

  function start() {
    if (!window.radinForestPlotData) return; // the figure and the table stay
    document.querySelectorAll(".radin-forest").forEach((root) => {
      root.querySelector(".forest-live").hidden = false;
      document.querySelectorAll(".forest-static").forEach((still) => { still.hidden = true; });
      const plot = new ForestPlot(root, window.radinForestPlotData);
      window.radinForestPlot.plots.push(plot);
      plot.update();
    });
  }

  whenReady(start);
})();
