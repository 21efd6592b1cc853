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

  // The title of a folded solution holds a link to the exercise above it: in the way of unfolding by keyboard, too.
  function free() {
    document.querySelectorAll(".solution.dropdown > .admonition-title a").forEach((a) => { a.tabIndex = -1; });
  }

  // A figure opens in full: on a phone its words are small.
  function open() {
    document.querySelectorAll(".bd-article figure img").forEach((image) => {
      if (image.closest("a")) return;
      const link = document.createElement("a");
      link.href = image.src;
      image.replaceWith(link);
      link.append(image);
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    unlist();
    free();
    open();
    reach();
    new ResizeObserver(reach).observe(document.querySelector("article") ?? document.body);
    // Formulas get their width late.
    window.MathJax?.startup?.promise?.then(reach);
  });
  window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(reach));
})();
