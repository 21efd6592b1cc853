/* Moving pictures: line charts with a slider, in the page, without a kernel.
 *
 * `window.radinMovingData.NAME` comes from book/tools/moving_pictures.py: a picture as
 * `radin.experiments.plots.moving.MovingPicture` describes it. The live part takes the place of the image in the figure
 * fig-moving-NAME, whose caption stays. What drawings share is in book/_static/drawing/drawing.js. */
(function () {
  "use strict";

  const { element, ticks, tickTexts, whenReady } = window.radinDrawing;
  const CHOSEN = "*";
  const NARROW = 560; // pixels
  const NONE = "–"; // where there is no number

  /* A number as a format of Python says: "+.3f" has a sign and three digits. */
  function written(value, spec) {
    if (value === null) return NONE;
    const text = value.toFixed(Number(/\.(\d+)f/.exec(spec)[1]));
    const sign = spec.startsWith("+") && value >= 0 ? "+" : "";
    return sign + text.replace("-", "−");
  }

  class MovingPicture {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.slider = root.querySelector('[name="at"]');
      this.list = root.querySelector('[name="group"]');
      this.drawing = root.querySelector(".moving-drawing");
      root.querySelectorAll("input, select").forEach((control) => control.addEventListener("input", () => this.update()));
      new ResizeObserver(() => this.draw()).observe(this.drawing);
    }

    /* Where the slider stands: the number of a value. */
    at() {
      const { values } = this.data;
      return Math.round((Number(this.slider.value) - values[0]) / (values[1] - values[0]));
    }

    chosen() {
      return this.list ? this.list.value : this.data.chosen;
    }

    nameOf(group) {
      return group === CHOSEN ? this.chosen() : group;
    }

    values(group, key) {
      return this.data.groups[this.nameOf(group)][key];
    }

    update() {
      this.write();
      this.draw();
      this.root.dataset.ready = "yes";
    }

    /* The numbers, for screen readers and to copy. */
    write() {
      const { data } = this;
      const at = this.at();
      const shown = written(data.values[at], data.spec);
      const number = (group, key) => written(this.values(group, key)[at], data.formats[key]);
      this.root.querySelector("output").textContent = shown;
      this.slider.setAttribute("aria-valuetext", shown);
      this.root.querySelector(".moving-words").textContent = data.words.replace(/\{([^}]+)\}/g, (_, name) => {
        if (name === "at") return shown;
        if (name === "chosen") return this.chosen();
        const [group, key] = name.includes("/") ? name.split("/") : ["", name];
        return number(group, key);
      });
      const about = this.root.querySelector(".moving-about");
      if (about) about.textContent = data.options[this.chosen()];
      const groups = [...new Set(data.panels.map((panel) => panel.group))];
      this.root.querySelector("thead tr").replaceChildren(...["", ...groups.map((group) => this.nameOf(group) || "value")]
        .map((text, column) => {
          const cell = document.createElement(column ? "th" : "td");
          if (column) cell.scope = "col";
          cell.textContent = text;
          return cell;
        }));
      this.root.querySelector("tbody").replaceChildren(...Object.entries(data.rows).map(([key, name]) => {
        const line = document.createElement("tr");
        line.dataset.key = key;
        [name, ...groups.map((group) => number(group, key))].forEach((text, column) => {
          const cell = document.createElement(column ? "td" : "th");
          if (!column) cell.scope = "row";
          cell.textContent = text;
          line.append(cell);
        });
        return line;
      }));
    }

    /* The marks of all panels with this axis: their lines fit between the first and the last. */
    marks(axis, count) {
      const { values, frame, panels } = this.data;
      const found = [];
      for (const panel of panels.filter((each) => each.axis === axis)) {
        for (const line of panel.lines.filter((each) => !each.loose)) {
          this.values(panel.group, line.key).forEach((number, at) => {
            if (number !== null && values[at] >= frame[0] && values[at] <= frame[1]) found.push(number);
          });
        }
      }
      const [low, high] = [Math.min(...found), Math.max(...found)];
      return low < high ? ticks(low, high, count) : ticks(low - 0.5, high + 0.5, count);
    }

    /* The panels, two in a row; on a phone perhaps one below the other. */
    draw() {
      const { data } = this;
      const width = this.drawing.clientWidth;
      if (!width) return;
      const narrow = width < NARROW;
      const columns = narrow ? data.columns_on_a_phone : 2;
      const size = narrow ? 12 : 14;
      const across = width / columns;
      const high = narrow && columns === 2 ? 190 : 240;
      const rows = Math.ceil(data.panels.length / columns);
      const marks = data.panels.map((panel) => this.marks(panel.axis, narrow ? 4 : 5));
      const longest = Math.max(...marks.flatMap(tickTexts).map((text) => text.length));
      const svg = element("svg", {
        width, height: rows * high + 2 * size, role: "img", "font-size": size,
        "aria-label": `${data.title}: ${data.panels.length} line charts; the table below has the numbers.`,
      });
      data.panels.forEach((panel, k) => {
        const [column, row] = [k % columns, Math.floor(k / columns)];
        const left = data.panels[k - 1];
        svg.append(this.panel(panel, {
          x: column * across, y: row * high, width: across, height: high, size, id: k, narrow, marks: marks[k],
          room: longest * size * 0.6 + 10,
          bare: column > 0 && left.axis === panel.axis,
        }));
      });
      svg.append(element("text", {
        x: width / 2, y: rows * high + 1.2 * size, "text-anchor": "middle",
      }, data.xlabel));
      this.drawing.replaceChildren(svg);
      this.legend();
    }

    /* The lines above a chart. Side by side on a phone, the axis stands once in a row, above the names. */
    titles(panel, box) {
      const name = this.nameOf(panel.group);
      if (!name) return [panel.axis];
      if (!box.narrow || this.data.columns_on_a_phone === 1) return [`${name}: ${panel.axis}`];
      return [box.bare ? "" : panel.axis, name];
    }

    /* One chart in its box. A bare one leaves the texts of its marks to its left neighbour. */
    panel(panel, box) {
      const { data } = this;
      const { size, marks } = box;
      const texts = tickTexts(marks);
      const left = box.x + (box.bare && box.narrow ? 8 : box.room);
      const titles = this.titles(panel, box);
      const [right, bottom] = [box.x + box.width - 10, box.y + box.height - 2 * size];
      const top = box.y + (0.7 + 1.2 * titles.length) * size;
      const [first, last] = [data.values[0], data.values[data.values.length - 1]];
      const x = (value) => left + ((value - first) / (last - first)) * (right - left);
      const [low, high] = [marks[0], marks[marks.length - 1]];
      const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
      const group = element("g", { "data-panel": box.id });
      titles.forEach((title, line) => {
        if (!title) return;
        const place = { x: box.narrow && !box.bare ? box.x + 2 : left, y: box.y + (1.1 + 1.2 * line) * size };
        group.append(element("text", { ...place, class: "moving-title" }, title));
      });
      marks.forEach((mark, at) => {
        group.append(element("line", { x1: left, x2: right, y1: y(mark), y2: y(mark), class: "moving-grid" }));
        if (box.bare && box.narrow) return;
        group.append(element("text", { x: left - 6, y: y(mark) + 0.35 * size, "text-anchor": "end" }, texts[at]));
      });
      const below = ticks(first, last, 3);
      tickTexts(below).forEach((text, at) => {
        if (below[at] < first - 1e-9 || below[at] > last + 1e-9) return;
        group.append(element("text", { x: x(below[at]), y: bottom + 1.3 * size, "text-anchor": "middle" }, text));
      });
      for (const mark of data.marks) {
        group.append(element("line", { x1: x(mark), x2: x(mark), y1: top, y2: bottom, class: "moving-place" }));
      }
      const clip = `moving-${data.name}-${box.id}`;
      const frame = element("clipPath", { id: clip });
      frame.append(element("rect", { x: left, y: top - 2, width: right - left, height: bottom - top + 4 }));
      group.append(frame);
      const lines = element("g", { "clip-path": `url(#${clip})` });
      for (const line of panel.lines) {
        lines.append(element("path", {
          d: this.way(panel.group, line.key, x, y), class: `moving-line moving-${line.look}`, "data-key": line.key,
        }));
      }
      group.append(lines);
      this.mark(group, panel, { x, y, top, bottom, inside: (number) => number >= low && number <= high });
      return group;
    }

    /* A line through all its numbers; it is broken where there is none. */
    way(group, key, x, y) {
      let pen = "M";
      return this.values(group, key).map((number, at) => {
        if (number === null) {
          pen = "M";
          return "";
        }
        const step = `${pen}${x(this.data.values[at]).toFixed(1)},${y(number).toFixed(1)}`;
        pen = "L";
        return step;
      }).join("");
    }

    /* Where the slider stands: a line, a dot on each line, and the gap between two of them. */
    mark(group, panel, { x, y, top, bottom, inside }) {
      const at = this.at();
      const here = x(this.data.values[at]);
      const numberOf = (key) => this.values(panel.group, key)[at];
      const shown = (key) => numberOf(key) !== null && inside(numberOf(key));
      group.append(element("line", { x1: here, x2: here, y1: top, y2: bottom, class: "moving-here" }));
      const [one, other] = panel.pair;
      if (one && shown(one) && shown(other)) {
        group.append(element("line", {
          x1: here, x2: here, y1: y(numberOf(one)), y2: y(numberOf(other)), class: "moving-line moving-gap",
        }));
      }
      for (const line of panel.lines.filter((each) => shown(each.key))) {
        group.append(element("circle", {
          cx: here, cy: y(numberOf(line.key)), r: 4, class: `moving-dot moving-${line.look}`, "data-key": line.key,
        }));
      }
    }

    /* What each line is, once for all panels. */
    legend() {
      const { panels } = this.data;
      const lines = new Map(panels.flatMap((panel) => panel.lines).map((line) => [line.label, line.look]));
      if (![...lines.values()].includes("gap") && panels.some((panel) => panel.pair.length)) lines.set("gap", "gap");
      this.root.querySelector(".moving-legend").replaceChildren(...[...lines].map(([label, look]) => {
        const entry = document.createElement("li");
        const sample = element("svg", { width: 30, height: 10, "aria-hidden": "true" });
        sample.append(element("line", { x1: 0, x2: 30, y1: 5, y2: 5, class: `moving-line moving-${look}` }));
        entry.append(sample, label);
        return entry;
      }));
    }
  }

  function start() {
    document.querySelectorAll(".radin-moving").forEach((root) => {
      const data = (window.radinMovingData ?? {})[root.dataset.picture];
      if (!data) return; // the figure stays
      const figure = document.getElementById(`fig-moving-${data.name}`);
      if (figure) {
        figure.classList.add("moving-figure");
        figure.insertBefore(root, figure.querySelector("figcaption"));
      }
      root.querySelector(".moving-live").hidden = false;
      new MovingPicture(root, data).update();
    });
  }

  whenReady(start);
})();
