/* Small repairs to the theme for readers with a keyboard or a screen reader. */
(function () {
  "use strict";

  // What scrolls sideways must be reachable with the keyboard; how much scrolls depends on the width of the page.
  const WIDE = ".bd-article :is(table, div.math, pre, .cell_output, .output)";
  function reach() {
    document.querySelectorAll(WIDE).forEach((box) => {
      const style = getComputedStyle(box);
      if (!/auto|scroll/.test(style.overflowX + style.overflowY)) return;
      if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
      else if (!box.classList.contains("explorer-code")) box.removeAttribute("tabindex");
    });
  }

  // docutils calls the bibliography a list, but gives it no list items.
  function unlist() {
    document.querySelectorAll('.citation-list[role="list"]').forEach((list) => list.removeAttribute("role"));
  }

  document.addEventListener("DOMContentLoaded", () => {
    unlist();
    reach();
    new ResizeObserver(reach).observe(document.querySelector("article") ?? document.body);
    // Formulas get their width late.
    window.MathJax?.startup?.promise?.then(reach);
  });
  window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(reach));
})();
