/* What the drawings of the pages share: elements of SVG, marks of an axis, and how a live part takes the place of its
 * stand-in. */
(function () {
  "use strict";

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /* Round numbers from below the smallest value to above the largest, about `count` of them. */
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const first = Math.floor(low / step);
    const last = Math.ceil(high / step);
    return Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
  }

  /* The texts of such marks, with as many digits as their step needs. */
  function tickTexts(marks) {
    const step = Math.abs(marks[1] - marks[0]) * 1.000001; // 0.3 - 0.2 is less than 0.1
    const digits = step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0;
    return marks.map((mark) => (Math.abs(mark) < 1e-9 ? "0" : mark.toFixed(digits).replace("-", "−")));
  }

  /* Call `start` when the page is there. */
  function whenReady(start) {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }

  window.radinDrawing = { element, ticks, tickTexts, whenReady };
})();
