/* Small repairs to the theme for readers with a keyboard or a screen reader. */
(function () {
  "use strict";

  // What scrolls sideways must be reachable with the keyboard; how much scrolls depends on the width of the page.
  const WIDE = '.bd-article :is(table, div.math, mjx-container[display="true"], pre, .cell_output, .output, a.whole)';
  function reach() {
    document.querySelectorAll(WIDE).forEach((box) => {
      const style = getComputedStyle(box);
      if (!/auto|scroll/.test(style.overflowX + style.overflowY)) return;
      if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
      else if (!box.matches(".explorer-code, .recipe-live pre")) box.removeAttribute("tabindex");
      cue(box);
      box.onscroll = () => cue(box);
    });
  }

  // The edge behind which more is to be seen fades (book.css).
  function cue(box) {
    box.classList.toggle("more-right", box.scrollWidth - box.clientWidth - box.scrollLeft > 2);
    box.classList.toggle("more-left", box.scrollLeft > 2);
  }

  // On a phone a figure that is drawn for a desk would have words of six pixels. It stays so wide that they can be
  // read, and scrolls.
  const READABLE = 0.75;
  function size(image) {
    const narrow = window.matchMedia("(max-width: 576px)").matches && image.naturalWidth > 0;
    image.style.minWidth = narrow ? `${Math.round(READABLE * image.naturalWidth)}px` : "";
  }

  // By night a notebook's figure has a dark version (book/tools/night_figures.py). Others keep their white ground.
  const FIGURES = ".bd-article figure img";
  const DRAWN = /_images\/(?=[0-9a-f]{64}\.png$)/;
  function dress() {
    const dark = document.documentElement.dataset.theme === "dark";
    document.querySelectorAll(FIGURES).forEach((image) => {
      const day = image.dataset.day ?? image.getAttribute("src");
      if (!DRAWN.test(day)) return;
      image.dataset.day = day;
      const wanted = dark ? day.replace(DRAWN, "_static/night/") : day;
      if (image.getAttribute("src") !== wanted) image.setAttribute("src", wanted);
      image.classList.toggle("night", dark);
      if (image.parentElement.matches("a.whole")) image.parentElement.href = image.src;
    });
  }

  // docutils calls the bibliography a list, but gives it no list items.
  function unlist() {
    document.querySelectorAll('.citation-list[role="list"]').forEach((list) => list.removeAttribute("role"));
  }

  // The arrow that unfolds the pages below another has no words of its own.
  function nameArrows() {
    document.querySelectorAll("summary:has(> .toctree-toggle)").forEach((arrow) => {
      const page = arrow.closest("li")?.querySelector("a")?.textContent.trim();
      arrow.setAttribute("aria-label", `pages below ${page ?? "this one"}`);
    });
  }

  // The title of a folded solution holds a link to the exercise above it: in the way of unfolding by keyboard, too.
  function free() {
    document.querySelectorAll(".solution.dropdown > .admonition-title a").forEach((a) => { a.tabIndex = -1; });
  }

  // A figure opens in full: on a phone its words are small.
  function open() {
    document.querySelectorAll(FIGURES).forEach((image) => {
      // Sphinx links a picture whose width is set; it scrolls in its link like the others.
      const linked = image.closest("a");
      if (linked) return linked.classList.add("whole");
      const link = document.createElement("a");
      link.className = "whole";
      link.href = image.src;
      image.replaceWith(link);
      link.append(image);
    });
  }

  // Where the repository is known, the theme has a link to a new issue about the page in a menu at its top.
  // Who has read the page is at its end.
  function ask() {
    const issue = document.querySelector("a.btn-source-issues-button");
    const article = document.querySelector("article.bd-article");
    if (!issue || !article) return;
    const line = document.createElement("p");
    line.className = "ask";
    const link = document.createElement("a");
    link.href = issue.href;
    link.textContent = "Ask about this page, or report a mistake";
    line.append(link);
    article.append(line);
  }

  document.addEventListener("DOMContentLoaded", () => {
    ask();
    unlist();
    nameArrows();
    free();
    open();
    dress();
    document.querySelectorAll(FIGURES).forEach((image) => {
      size(image);
      image.addEventListener("load", () => { size(image); reach(); });
    });
    window.matchMedia("(max-width: 576px)").addEventListener("change", () => document.querySelectorAll(FIGURES).forEach(size));
    new MutationObserver(dress).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    reach();
    new ResizeObserver(reach).observe(document.querySelector("article") ?? document.body);
    // Formulas get their width late.
    window.MathJax?.startup?.promise?.then(reach);
  });
  window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(reach));
})();
